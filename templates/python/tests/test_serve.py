import contextlib
import http.client
import io
import os
import subprocess
import sys
import threading

from graphene_function.serve import make_server

from .support import HandlerTestCase

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class ServeTest(HandlerTestCase):
    def serve(self, text):
        server = make_server(self.function(text), ("127.0.0.1", 0))
        self.addCleanup(server.server_close)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.port = server.server_port

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.addCleanup(connection.close)
        with contextlib.redirect_stderr(io.StringIO()):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()

    def test_answers_as_the_platform_would(self):
        self.serve(
            "def handle(event, context):\n"
            "    if event.path == '/stream': return iter(['a', 'b'])\n"
            "    if event.path == '/fail': raise ValueError\n"
            "    return {'statusCode': 201, 'body': event.method + event.query.get('q', '') + event.body.decode()}"
        )
        self.assertEqual(self.call("POST", "/?q=1", b"body"), (201, b"POST1body"))
        self.assertEqual(self.call("GET", "/stream"), (200, b"ab"))
        self.assertEqual(self.call("GET", "/fail"), (500, b"the function raised ValueError; its log says more\n"))

    def test_async_handlers_work_too(self):
        self.serve("async def handle(event, context):\n    return event.path")
        self.assertEqual(self.call("GET", "/x"), (200, b"/x"))

    def test_the_command_serves_a_file(self):
        self.write("handler.py", "def handle(req): return req * 2")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "graphene_function",
                "serve",
                os.path.join(self.directory, "handler.py"),
                "--port",
                "0",
            ],
            env={**os.environ, "PYTHONPATH": LIBRARY},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        line = process.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1].rstrip("/\n"))
        self.assertEqual(self.call("POST", "/", b"ab"), (200, b"abab"))

    def test_the_command_says_what_is_wrong(self):
        result = subprocess.run(
            [sys.executable, "-m", "graphene_function", self.directory],
            env={**os.environ, "PYTHONPATH": LIBRARY},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.assertEqual(result.returncode, 1)
        self.assertIn("there is no handler.py in", result.stderr)
