"""Run with `python3 -m unittest` in this directory."""

import json
import unittest
from types import SimpleNamespace

import handler


class HandleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.context = SimpleNamespace(hostname="test")
        cls.model = handler.load(cls.context)
        handler.warmup(cls.model)

    def call(self, body):
        """Call the handler as the platform would."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        event = SimpleNamespace(body=body, headers={}, method="POST", query={}, path="/")
        return handler.handle(self.model, event, self.context)

    def test_names_the_kind_of_iris(self):
        for kind, petal in {
            "setosa": (1.4, 0.2),
            "versicolor": (4.7, 1.4),
            "virginica": (5.9, 2.1),
        }.items():
            with self.subTest(kind):
                answer = self.call(dict(zip(handler.FEATURES, petal)))
                self.assertEqual(answer["statusCode"], 200)
                self.assertEqual(answer["body"]["kind"], kind)

    def test_says_what_is_wrong_with_a_request(self):
        for body, problem in {
            b"": "the body must be JSON",
            b"\xff\xfe": "the body must be JSON",
            b"[1.4, 0.2]": "the body must be an object",
            b'{"petal_length": 1.4}': "petal_width must be a number",
            b'{"petal_length": 1.4, "petal_width": "wide"}': "petal_width must be a number",
            b'{"petal_length": 1.4, "petal_width": NaN}': "petal_width must be a number",
            b'{"petal_length": 1.4, "petal_width": 1%s}' % (b"0" * 400): "petal_width must be",
        }.items():
            with self.subTest(body):
                answer = self.call(body)
                self.assertEqual(answer["statusCode"], 400)
                self.assertIn(problem, answer["body"]["error"])


if __name__ == "__main__":
    unittest.main()
