"""Make the model that handler.py loads, in the directory that is the argument."""

import os
import pickle
import sys

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

x, y = make_classification(n_samples=2000, n_features=20, random_state=1)
forest = RandomForestClassifier(n_estimators=100, random_state=1).fit(x, y)
with open(os.path.join(sys.argv[1], "forest.pickle"), "wb") as file:
    pickle.dump(forest, file)
np.save(os.path.join(sys.argv[1], "weights.npy"), np.random.default_rng(1).standard_normal((100_000_000 // 160, 20)))
