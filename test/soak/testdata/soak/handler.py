"""Misbehaves when it is asked to, by the path."""

import os
import signal
import subprocess
import tempfile
import time

kept = []


def multiply(most):
    """Have children that have children, but not without end."""
    read, write = os.pipe()
    os.write(write, b"." * most)
    os.set_blocking(read, False)
    while True:
        try:
            os.read(read, 1)
        except BlockingIOError:
            time.sleep(3600)
        os.fork()


def handle(event, context):
    kind = event.path.strip("/")
    if kind == "leak":
        kept.append(os.urandom(1 << 20))
    elif kind == "hang":
        while True:
            time.sleep(1)
    elif kind == "stuck":
        sum(iter(int, 1))  # without end, and without coming back to the interpreter
    elif kind == "heed":
        while not context.cancelled:
            time.sleep(0.01)
    elif kind == "fork":
        multiply(60)
    elif kind == "daemon":
        # It leaves its parent and its session, and the platform has to bury it.
        subprocess.run(["/bin/sh", "-c", "setsid sleep 3 &"], check=True, stdout=subprocess.DEVNULL)
    elif kind == "print":
        print("x" * 1_000_000, end="")
    elif kind == "exit":
        os._exit(3)
    elif kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "raise":
        raise RuntimeError("on purpose")
    elif kind == "file":
        with tempfile.TemporaryFile() as file:
            file.write(event.body)
    return event.body
