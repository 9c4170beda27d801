"""Run with `python3 -m unittest` in this directory, after `python3 build.py`."""

import json
import unittest
from pathlib import Path
from types import SimpleNamespace

from sklearn.datasets import load_wine

import handler

WINES = load_wine()
EXAMPLE = Path(__file__).resolve().parent.parent / "wine.json"


def analysis(number, **changes):
    """Return one wine of the data set as a caller would send it."""
    values = dict(zip(WINES.feature_names, WINES.data[number].tolist()))
    return {**values, **changes}


class HandlerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = handler.load(SimpleNamespace(hostname="test"))
        handler.warmup(cls.model)

    def call(self, body):
        """Call the handler as the platform would."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return handler.handle(self.model, SimpleNamespace(body=body), None)

    def test_knows_the_wines_it_was_trained_on(self):
        right = sum(
            self.call(analysis(number))["body"]["class"] == target
            for number, target in enumerate(WINES.target)
        )
        self.assertGreater(right / len(WINES.target), 0.98)

    def test_says_how_sure_it_is(self):
        answer = self.call(analysis(0))
        self.assertEqual(answer["statusCode"], 200)
        body = answer["body"]
        self.assertEqual(body["cultivar"], "Barolo")
        self.assertGreater(body["probability"], 0.99)
        self.assertAlmostEqual(sum(body["probabilities"].values()), 1, places=3)
        self.assertEqual(body["unusual"], [])
        json.dumps(body)  # no numpy types in it

    def test_says_where_it_only_guesses(self):
        self.assertEqual(self.call(analysis(0, alcohol=40))["body"]["unusual"], ["alcohol"])

    def test_the_wine_beside_the_readme_is_a_barolo(self):
        self.assertEqual(self.call(EXAMPLE.read_bytes())["body"]["cultivar"], "Barolo")

    def test_says_what_is_wrong_with_a_request(self):
        partial = analysis(0)
        del partial["ash"], partial["hue"]
        for body, problem in (
            (b"", "the body must be JSON"),
            (b"\xff\xfe\xfd", "the body must be JSON"),
            (b"[" * 100_000, "the body must be JSON"),
            ([14.2, 1.7], "the body must be a JSON object"),
            (partial, "missing: ash, hue"),
            (analysis(0, colour=3), "unknown: colour"),
            (analysis(0, ash="much"), "ash must be a number"),
            (analysis(0, ash=True), "ash must be a number"),
            (analysis(0, ash=None), "ash must be a number"),
            (analysis(0, ash=-1), "ash must be a number"),
            (analysis(0, ash=10**400), "ash must be a number"),
            (analysis(0, ash=float("nan")), "ash must be a number"),
            (analysis(0, ash=float("inf")), "ash must be a number"),
        ):
            with self.subTest(problem, body=str(body)[:40]):
                answer = self.call(body)
                self.assertEqual(answer["statusCode"], 400)
                self.assertIn(problem, answer["body"]["error"])

    def test_one_bad_request_of_a_batch_fails_alone(self):
        bodies = [json.dumps(analysis(0)).encode(), b"?", json.dumps(analysis(177)).encode()]
        answers = handler.handle_batch(
            self.model, [SimpleNamespace(body=body) for body in bodies], None
        )
        self.assertEqual([answer["statusCode"] for answer in answers], [200, 400, 200])
        self.assertEqual([answers[0]["body"]["class"], answers[2]["body"]["class"]], [0, 2])


if __name__ == "__main__":
    unittest.main()
