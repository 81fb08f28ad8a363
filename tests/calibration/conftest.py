import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier of scikit-learn whose inputs are its logits or its probabilities of five classes."""

    classes_ = np.arange(5)

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, rows, labels):
        raise AssertionError("it is fitted")

    def predict(self, rows):
        return rows.argmax(axis=-1)

    def decision_function(self, logits):
        return logits

    def predict_proba(self, probabilities):
        return probabilities


@pytest.fixture
def drawn():
    """Logits (N, C) and labels (N,) that are drawn from softmax(logits / temperature)."""

    def draw(number=400, classes=5, temperature=1.0, seed=0, spread=2.0):
        generator = torch.Generator().manual_seed(seed)
        logits = spread * torch.randn(number, classes, generator=generator)
        labels = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
        return logits, labels

    return draw
