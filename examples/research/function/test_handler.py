"""Run with `graphene test digits`, or with `python3 -m unittest` after `python3 build.py`."""

import json
import unittest
from pathlib import Path
from types import SimpleNamespace

from sklearn.datasets import load_digits

import handler

EXAMPLE = Path(__file__).resolve().parent.parent / "digit.json"


class HandlerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = handler.load(None)
        handler.warmup(cls.model)

    def call(self, body):
        """Call the handler as the platform would."""
        return handler.handle(self.model, SimpleNamespace(body=body), None)

    def test_knows_the_digits_it_was_trained_on(self):
        digits = load_digits()
        for picture, digit in zip(digits.data[:20].tolist(), digits.target):
            self.assertEqual(self.call(json.dumps(picture).encode())["body"]["digit"], digit)

    def test_the_digit_beside_the_readme_is_a_three(self):
        self.assertEqual(self.call(EXAMPLE.read_bytes())["body"]["digit"], 3)

    def test_says_what_is_wrong_with_a_request(self):
        for body in (b"", b"{}", b"[1, 2]", json.dumps([17] * 64).encode(), json.dumps(["x"] * 64).encode()):
            answer = self.call(body)
            self.assertEqual(answer["statusCode"], 400)
            self.assertIn("must be", answer["body"]["error"])


if __name__ == "__main__":
    unittest.main()
