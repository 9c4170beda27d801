"""Run with `python3 -m unittest` in this directory."""

import unittest
from types import SimpleNamespace

from handler import handle


def call(body=b"", **query):
    """Call the handler as the platform would."""
    event = SimpleNamespace(body=body, headers={}, method="POST", query=query, path="/")
    return handle(event, SimpleNamespace(hostname="test"))


class HandleTest(unittest.TestCase):
    def test_greets_the_caller_named_by_the_body(self):
        answer = call(b"Ada\n")
        self.assertEqual(answer["statusCode"], 200)
        self.assertEqual(answer["body"], {"message": "Hello, Ada!"})

    def test_greets_the_caller_named_by_the_query(self):
        self.assertEqual(call(name="Grace")["body"], {"message": "Hello, Grace!"})

    def test_greets_the_world_when_no_name_is_given(self):
        self.assertEqual(call()["body"], {"message": "Hello, world!"})

    def test_refuses_a_body_that_is_not_text(self):
        self.assertEqual(call(b"\xff\xfe")["statusCode"], 400)


if __name__ == "__main__":
    unittest.main()
