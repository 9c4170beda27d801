"""Says which digit a picture of 8 by 8 pixels shows."""

import json
import logging
from pathlib import Path

import joblib

PIXELS = 64

log = logging.getLogger(__name__)


def load(context):
    """Return the model that build.py made."""
    return joblib.load(Path(__file__).with_name("model.joblib"))


def warmup(model):
    """Classify an empty picture, so that the first caller does not wait for the first time."""
    model.predict_proba([[0.0] * PIXELS])


def handle(model, event, context):
    """Answer one request: a JSON list of 64 numbers from 0 to 16, row by row."""
    try:
        picture = parse(event.body)
    except ValueError as problem:
        return {"statusCode": 400, "body": {"error": str(problem)}}
    odds = model.predict_proba([picture])[0]
    digit = int(odds.argmax())
    log.info("it is a %d", digit)
    return {"statusCode": 200, "body": {"digit": digit, "probability": round(float(odds[digit]), 3)}}


def parse(body):
    """Return the pixels in the request's body; ValueError says what is wrong."""
    try:
        picture = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"the body must be JSON: {err}") from None
    if not isinstance(picture, list) or len(picture) != PIXELS:
        raise ValueError(f"the body must be a list of {PIXELS} numbers")
    for pixel in picture:
        if isinstance(pixel, bool) or not isinstance(pixel, (int, float)) or not 0 <= pixel <= 16:
            raise ValueError("each pixel must be a number from 0 to 16")
    return picture
