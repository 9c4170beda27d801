import io
import json
import unittest

from graphene_function import to_response


class Array:
    """Has numpy's way to become plain."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


class ToResponseTest(unittest.TestCase):
    def test_values_become_bodies(self):
        html, binary, document = "text/html; charset=utf-8", "application/octet-stream", "application/json"
        for value, body, content_type in [
            (None, b"", None),
            ("ü", "ü".encode(), html),
            (b"\x00", b"\x00", binary),
            (bytearray(b"x"), b"x", binary),
            ({"a": "ü"}, '{"a": "ü"}\n'.encode(), document),
            ([1, 2], b"[1, 2]\n", document),
            (Array([1.5]), b"[1.5]\n", document),
            ({"statusCode": 200, "body": Array([1])}, b"[1]\n", document),
            ({"body": {"x": Array(3)}}, b'{"x": 3}\n', document),
            ({"body": 5}, b"5", html),
            ({"statusCode": 200}, b"", None),
        ]:
            with self.subTest(repr(value)):
                response = to_response(value)
                self.assertEqual((response.status, response.body), (200, body))
                self.assertEqual(dict(response.headers).get("Content-Type"), content_type)

    def test_a_dictionary_says_what_it_wants(self):
        response = to_response({"statusCode": "404", "headers": {"content-type": "text/x", "N": 1}, "body": "no"})
        self.assertEqual(response.status, 404)
        self.assertEqual(response.headers, [("content-type", "text/x"), ("N", "1")])
        self.assertEqual(response.body, b"no")

    def test_headers_may_repeat(self):
        for headers in ({"A": ["1", "2"]}, [("A", "1"), ("A", "2")]):
            with self.subTest(headers):
                self.assertEqual(to_response({"headers": headers}).headers, [("A", "1"), ("A", "2")])

    def test_tuples_are_read_as_flask_does(self):
        for value, status, headers in [
            (("no", 404), 404, {"Content-Type": "text/html; charset=utf-8"}),
            (("no", 404, {"A": "1"}), 404, {"A": "1", "Content-Type": "text/html; charset=utf-8"}),
            (({"a": 1}, {"A": "1"}), 200, {"A": "1", "Content-Type": "application/json"}),
        ]:
            with self.subTest(value):
                response = to_response(value, structured=False)
                self.assertEqual((response.status, dict(response.headers)), (status, headers))

    def test_a_classic_dictionary_is_a_body(self):
        self.assertEqual(json.loads(to_response({"body": 1}, structured=False).body), {"body": 1})

    def test_iterators_and_files_stream(self):
        self.assertEqual(list(to_response(iter(["a", b"b"])).body), [b"a", b"b"])
        file = io.BytesIO(b"x" * 100_000)
        self.assertEqual(b"".join(to_response(file).body), b"x" * 100_000)
        self.assertTrue(file.closed)

    def test_closing_a_stream_closes_what_is_under_it(self):
        closed = []

        def pieces():
            try:
                yield "a"
                yield "b"
            finally:
                closed.append(True)

        body = to_response(pieces()).body
        next(body)
        body.close()
        self.assertEqual(closed, [True])

    def test_what_cannot_be_sent_is_refused(self):
        for value in ({"statusCode": 100}, {"statusCode": "ok"}, {"statusCode": 1000}, {"body": {"x": object()}}):
            with self.subTest(value), self.assertRaises((TypeError, ValueError)):
                to_response(value)
        with self.assertRaises(TypeError):
            next(to_response(iter([1])).body)
