"""Run with `python3 -m unittest` in this directory."""

import unittest

from handler import handle


class HandleTest(unittest.TestCase):
    def test_answers_in_capitals(self):
        self.assertEqual(handle("hello"), "HELLO")

    def test_an_empty_request_gets_an_empty_answer(self):
        self.assertEqual(handle(""), "")


if __name__ == "__main__":
    unittest.main()
