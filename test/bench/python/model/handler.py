"""A classifier of scikit-learn and 100 MB of weights, all of which an answer may need."""

import os
import pickle

import numpy as np

SAMPLE = np.linspace(-1, 1, 20).reshape(1, -1)


def load(context):
    directory = os.environ["model_dir"]
    with open(os.path.join(directory, os.environ["model_file"]), "rb") as file:
        classifier = pickle.load(file)
    return classifier, np.load(os.path.join(directory, "weights.npy"))


def warmup(model):
    answer(model)


def handle(model, event, context):
    # It stays at work until its caller says that it is enough, so that the next
    # caller needs another worker.
    yield f"{answer(model)}\n"
    for _ in event.stream():
        pass


def answer(model):
    classifier, weights = model
    return f"{classifier.predict(SAMPLE)[0]} {weights[0] @ SAMPLE[0]:.3f}"
