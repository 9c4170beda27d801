"""Make the models that handler.py loads, in the directory that is the argument."""

import os
import pickle
import sys

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = make_classification(n_samples=2000, n_features=20, random_state=1)
for name, model in {
    "linear": make_pipeline(StandardScaler(), LogisticRegression()),
    "forest": RandomForestClassifier(n_estimators=100, random_state=1),
}.items():
    with open(os.path.join(sys.argv[1], f"{name}.pickle"), "wb") as file:
        pickle.dump(model.fit(x, y), file)
np.save(os.path.join(sys.argv[1], "weights.npy"), np.random.default_rng(1).standard_normal((100_000_000 // 160, 20)))
