"""Names the animal in a picture."""

import io
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SIZE = 224  # the side of the square that the network looks at, in pixels
MARGIN = 32  # what is cut off a picture on that scale, both edges together
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = None  # Pillow would warn in the log; prepare() refuses

# ImageNet's classes below this are animals; those from here on are things.
FIRST_THING = 398


class Model(NamedTuple):
    """A network and the names of what it knows."""

    session: onnxruntime.InferenceSession
    labels: list

    def predict(self, pictures):
        """Return float[N, classes] probabilities for N pictures from prepare()."""
        return self.session.run(None, {"pictures": np.stack(pictures)})[0]


class BadPicture(ValueError):
    """The caller sent something else than a picture; the text says what is wrong."""


def load(context):
    """Return the model that build.py made."""
    here = Path(__file__).parent
    options = onnxruntime.SessionOptions()
    # Workers are the parallelism, so the platform sets this to 1.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 1))
    session = onnxruntime.InferenceSession(
        str(here / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return Model(session, json.loads((here / "labels.json").read_text("utf-8")))


def warmup(model):
    """Run the network once, on a black picture."""
    model.predict([np.zeros((SIZE, SIZE, 3), np.uint8)])


def handle(model, event, context):
    """Answer one request, whose body is a picture."""
    [answer] = handle_batch(model, [event], context)
    return answer


def handle_batch(model, events, context):
    """Answer several requests by one run of the network."""
    answers = [None] * len(events)
    pictures = {}
    for place, event in enumerate(events):
        try:
            pictures[place] = prepare(event.body)
        except BadPicture as problem:
            answers[place] = {"statusCode": 400, "body": {"error": str(problem)}}
    if pictures:
        for place, probabilities in zip(pictures, model.predict(list(pictures.values()))):
            answers[place] = {"statusCode": 200, "body": describe(model, probabilities)}
    return answers


def prepare(body):
    """Return the middle of an encoded picture as uint8[SIZE, SIZE, 3]."""
    if not body:
        raise BadPicture(f"the body is empty; send a picture ({', '.join(FORMATS)})")
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Exception:  # of many kinds, one for each way to damage a picture
        raise BadPicture(f"the body is not a picture ({', '.join(FORMATS)})") from None
    # Known from the header, before memory is spent on the pixels.
    if image.width * image.height > MAX_PIXELS:
        raise BadPicture(f"the picture has more than {MAX_PIXELS // 10**6} million pixels")

    try:
        image.draft("RGB", (SIZE + MARGIN, SIZE + MARGIN))  # lets the JPEG decoder skip detail
        image = ImageOps.exif_transpose(image).convert("RGB")
    except MemoryError:
        raise
    except Exception as err:  # as above
        raise BadPicture(f"the picture is damaged: {err}") from None
    return np.asarray(middle(image))


def middle(image):
    """Return the middle of a picture whose shorter side is scaled to SIZE + MARGIN.

    Scaling no more than the middle costs no memory for the rest, of which a
    picture of one pixel's height has much.
    """
    scale = min(image.size) / (SIZE + MARGIN)
    box = []
    for length in image.size:
        scaled = round(length / scale)
        start = (scaled - SIZE) // 2
        box.append((start * length / scaled, (start + SIZE) * length / scaled))
    (left, right), (top, bottom) = box
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, right, bottom))


def describe(model, probabilities):
    """Return the answer's body: the best guess, the animal if it is one, and the best five."""
    top = [
        {
            "label": model.labels[number],
            "class": int(number),
            "probability": round(float(probabilities[number]), 4),
        }
        for number in np.argsort(probabilities)[:-6:-1]
    ]
    best = top[0]
    animal = best["label"] if best["class"] < FIRST_THING else None
    return {"animal": animal, **best, "top5": top}
