import os
import tempfile
import time
import unittest
from unittest import mock

from graphene_function import Context, Event, Headers, Query


class HeadersTest(unittest.TestCase):
    def test_names_compare_without_regard_to_case(self):
        headers = Headers([("Content-Type", "a"), ("X-Two", "1"), ("x-two", "2")])
        self.assertEqual(headers["content-type"], "a")
        self.assertEqual(headers.get("CONTENT-TYPE"), "a")
        self.assertIn("x-TWO", headers)
        self.assertEqual(headers["X-Two"], "1, 2")
        self.assertEqual(headers.getlist("x-two"), ["1", "2"])
        self.assertEqual(dict(headers), {"Content-Type": "a", "X-Two": "1, 2"})

    def test_missing_ones_are_missing(self):
        headers = Headers([])
        self.assertIsNone(headers.get("x"))
        self.assertEqual(headers.get("x", "y"), "y")
        self.assertEqual(headers.getlist("x"), [])
        with self.assertRaises(KeyError):
            headers["x"]

    def test_a_type_converts_or_falls_back(self):
        headers = Headers([("N", "3"), ("S", "three")])
        self.assertEqual(headers.get("n", type=int), 3)
        self.assertEqual(headers.get("s", 0, type=int), 0)


class QueryTest(unittest.TestCase):
    def test_reads_as_first_values(self):
        query = Query("a=1&a=2&b=%20x&empty=")
        self.assertEqual(query["a"], "1")
        self.assertEqual(query.get("b"), " x")
        self.assertEqual(query["empty"], "")
        self.assertEqual(query.getlist("a"), ["1", "2"])
        self.assertEqual(query.getlist("a", type=int), [1, 2])
        self.assertEqual(Query("n=1&n=x").getlist("n", type=int), [1])
        self.assertEqual(query.to_dict(), {"a": "1", "b": " x", "empty": ""})
        self.assertEqual(query.to_dict(flat=False)["a"], ["1", "2"])
        self.assertEqual(list(query.lists())[0], ("a", ["1", "2"]))

    def test_missing_ones_are_missing(self):
        self.assertIsNone(Query("").get("a"))
        with self.assertRaises(KeyError):
            Query("")["a"]


class EventTest(unittest.TestCase):
    def test_holds_a_request(self):
        event = Event(b"body", {"X-A": "1"}, "POST", "q=1", "/path")
        self.assertEqual((event.body, event.method, event.path), (b"body", "POST", "/path"))
        self.assertEqual(event.headers.get("x-a"), "1")
        self.assertEqual(event.query.get("q"), "1")
        self.assertEqual(b"".join(event.stream()), b"body")


class ContextTest(unittest.TestCase):
    def test_knows_the_function(self):
        environ = {"HOSTNAME": "h", "OPENFAAS_NAME": "f", "OPENFAAS_NAMESPACE": "n"}
        with mock.patch.dict(os.environ, environ):
            context = Context("id", time.time() + 100)
            self.assertEqual(
                (context.hostname, context.function, context.namespace, context.call_id), ("h", "f", "n", "id")
            )
        self.assertGreater(context.remaining(), 50)
        self.assertIsNone(Context().remaining())

    def test_reads_secrets(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "key"), "w", encoding="utf-8") as file:
                file.write("s3cret\n")
            with mock.patch.dict(os.environ, {"SECRETS_DIR": directory}):
                self.assertEqual(Context().secret("key"), "s3cret")
                for name in ("other", "", "..", "../key", "/etc/passwd"):
                    with self.subTest(name), self.assertRaises(KeyError):
                        Context().secret(name)
