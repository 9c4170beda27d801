"""Says which grape a wine was made of, from its chemical analysis."""

import json
from pathlib import Path

import joblib
import numpy as np


class BadAnalysis(ValueError):
    """The caller sent something else than an analysis; the text says what is wrong."""


def load(context):
    """Return the model that build.py made."""
    return joblib.load(Path(__file__).with_name("model.joblib"))


def warmup(model):
    """Classify one wine, so that the first caller does not wait for the first time."""
    model["classifier"].predict_proba([model["lowest"]])


def handle(model, event, context):
    """Answer one request: a JSON object with a number for each feature."""
    [answer] = handle_batch(model, [event], context)
    return answer


def handle_batch(model, events, context):
    """Answer several requests by one call of the classifier."""
    answers = [None] * len(events)
    analyses = {}
    for place, event in enumerate(events):
        try:
            analyses[place] = parse(event.body, model["features"])
        except BadAnalysis as problem:
            answers[place] = {"statusCode": 400, "body": {"error": str(problem)}}
    if analyses:
        wines = np.array(list(analyses.values()))
        for place, wine, odds in zip(analyses, wines, model["classifier"].predict_proba(wines)):
            answers[place] = {"statusCode": 200, "body": describe(model, wine, odds)}
    return answers


def parse(body, features):
    """Return the features' values in order."""
    try:
        analysis = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise BadAnalysis(f"the body must be JSON: {err}") from None
    if not isinstance(analysis, dict):
        raise BadAnalysis("the body must be a JSON object with a number for each feature")
    if missing := [name for name in features if name not in analysis]:
        raise BadAnalysis(f"missing: {', '.join(missing)}")
    if unknown := [name for name in analysis if name not in features]:
        raise BadAnalysis(f"unknown: {', '.join(unknown)}; known are {', '.join(features)}")

    values = []
    for name in features:
        value = analysis[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # No wine comes near the bound; what is NaN or infinite fails it too.
        if not number or not 0 <= value < 1e6:
            raise BadAnalysis(f"{name} must be a number, not negative and below a million")
        values.append(float(value))
    return values


def describe(model, wine, odds):
    """Return the answer's body: the most probable cultivar, and how sure that is."""
    best = int(odds.argmax())
    strange = (wine < model["lowest"]) | (wine > model["highest"])
    return {
        "class": best,
        "cultivar": model["cultivars"][best],
        "probability": round(float(odds[best]), 4),
        "probabilities": {name: round(float(p), 4) for name, p in zip(model["cultivars"], odds)},
        # Where the model has never seen such a value, its answer is a guess.
        "unusual": [name for name, odd in zip(model["features"], strange) if odd],
    }
