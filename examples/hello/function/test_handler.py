"""Run with `python3 -m unittest` in this directory."""

import unittest
from types import SimpleNamespace

from handler import handle


class HandleTest(unittest.TestCase):
    def test_greets_the_caller(self):
        for body, message in {
            b"Ada\n": "Hello, Ada!",
            "Jürgen".encode(): "Hello, Jürgen!",
            b"": "Hello, world!",
            b"\xff": "Hello, \ufffd!",
        }.items():
            with self.subTest(body):
                answer = handle(SimpleNamespace(body=body), None)
                self.assertEqual(answer, {"statusCode": 200, "body": {"message": message}})


if __name__ == "__main__":
    unittest.main()
