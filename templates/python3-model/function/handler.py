"""A function around a model: which kind of iris has such a petal?"""

import json
import math
from pathlib import Path

FEATURES = ("petal_length", "petal_width")


def load(context):
    """Return the model. Called once; every worker shares what it returns."""
    return json.loads(Path(__file__).with_name("model.json").read_text("utf-8"))


def warmup(model):
    """Use the model once, so that the first request finds it warm."""
    nearest(model, [0.0] * len(FEATURES))


def handle(model, event, context):
    """Answer one request: {"petal_length": 1.4, "petal_width": 0.2} (cm)."""
    try:
        petal = parse(event.body)
    except ValueError as problem:
        return {"statusCode": 400, "body": {"error": str(problem)}}

    kind, distance = nearest(model, petal)
    return {"statusCode": 200, "body": {"kind": kind, "distance": round(distance, 3)}}


def parse(body):
    """Return the features in the request's body; ValueError says what is wrong."""
    try:
        petal = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"the body must be JSON: {err}") from None
    if not isinstance(petal, dict):
        raise ValueError(f"the body must be an object with {' and '.join(FEATURES)}")

    values = []
    for name in FEATURES:
        value = petal.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1000:
            raise ValueError(f"{name} must be a number, in centimetres")
        values.append(float(value))
    return values


def nearest(model, petal):
    """Return the kind whose mean petal is nearest, and the distance to it."""
    distances = {kind: math.dist(mean, petal) for kind, mean in model["means"].items()}
    kind = min(distances, key=distances.__getitem__)
    return kind, distances[kind]
