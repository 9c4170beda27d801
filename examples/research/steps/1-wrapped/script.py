"""The script of the directory above; only the log is where a function may write."""

import json
import sys

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

model = None
pixels = None
history = []
log = None


def train():
    global model
    digits = load_digits()
    model = RandomForestClassifier(n_estimators=100, random_state=1)
    model.fit(digits.data, digits.target)


def classify():
    odds = model.predict_proba([pixels])[0]
    history.append((pixels, odds))
    print(f"so far: {len(history)}", file=log)
    return {"digit": int(odds.argmax()), "probability": round(float(odds.max()), 3)}


def main(text):
    global pixels, log
    log = open("/tmp/digits.log", "a")
    pixels = json.loads(text)
    train()
    return classify()


if __name__ == "__main__":
    print(json.dumps(main(sys.stdin.read())))
