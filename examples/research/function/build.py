"""Trains the model, once, while the image is built."""

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

digits = load_digits()
model = RandomForestClassifier(n_estimators=100, random_state=1).fit(digits.data, digits.target)
joblib.dump(model, "model.joblib", compress=3)
