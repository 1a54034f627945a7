"""What stands on the vectors: logistic regression, and votes of the nearest labels.

A third is in propagation.py.

A head is arrays and numbers, so that it is kept and loaded without pickle. `vectors` are float32
[rows, dimensions] of unit length, `gold` the class of each row; probabilities are float64 [rows,
classes].
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from semievol_ray.retrieval import Vectors

Probabilities = NDArray[np.float64]

# What is tried, and chosen by log loss on rows left out.
_PENALTIES = np.logspace(-1, 3, 5)
_NEIGHBOURS = (5, 15, 50)
_TEMPERATURES = (0.03, 0.1, 0.3)
_FOLDS = 5
# A probability that a classifier gives is never so small that it rules an answer out.
SMALLEST = 1e-6


def _folds(gold: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to learn from and rows to ask, in turn; none where no split leaves two classes to learn.

    By chance; by class where a rare one would be left out whole.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    count = min(_FOLDS, len(gold))
    kinds = [KFold(count, shuffle=True, random_state=0)]
    if count <= np.bincount(gold).max():
        kinds.append(StratifiedKFold(count, shuffle=True, random_state=0))
    for kind in kinds:
        with warnings.catch_warnings():
            # Of a class with fewer labels than folds.
            warnings.simplefilter("ignore", UserWarning)
            folds = list(kind.split(gold, gold))
        if all(len(np.unique(gold[rows])) > 1 for rows, _ in folds):
            return folds
    return []


class Head(Protocol):
    """Vectors to probabilities."""

    kind: ClassVar[str]
    # Whether it learns from questions without a label too.
    sees_corpus: ClassVar[bool]

    @classmethod
    def fit(
        cls, vectors: Vectors, gold: NDArray[np.intp], classes: int, corpus: Vectors | None = None
    ) -> Self:
        """The candidate whose log loss on rows left out is the least, fitted to all rows.

        `corpus` are the vectors of questions that have no label.
        """
        ...

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any]) -> Self:
        """What `arrays` and `settings` of another one describe."""
        ...

    def probabilities(self, vectors: Vectors) -> Probabilities:
        """Of every class, for each row."""
        ...

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it holds."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Its numbers."""
        ...


@dataclass(frozen=True)
class Probe:
    """Logistic regression: weights [dimensions, classes] and bias [classes]."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    # The inverse of the regularisation strength that was chosen.
    penalty: float
    kind: ClassVar[str] = "probe"
    sees_corpus: ClassVar[bool] = False

    @classmethod
    def fit(
        cls, vectors: Vectors, gold: NDArray[np.intp], classes: int, corpus: Vectors | None = None
    ) -> Self:
        """See Head.fit; by cross-validation."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict

        # No solution leaves the space that the rows span: where they are fewer than dimensions,
        # in it the fit is the same and takes a fraction of the time.
        basis = np.linalg.qr(vectors.T)[0] if len(vectors) < vectors.shape[1] else None
        inputs = vectors if basis is None else vectors @ basis
        folds = _folds(gold)

        def loss(model: Any) -> float:
            with warnings.catch_warnings():
                # A class that a fold does not hold is none that it can name: the loss says so.
                warnings.simplefilter("ignore", RuntimeWarning)
                found = cross_val_predict(model, inputs, gold, cv=folds, method="predict_proba")
            return log_loss(found, gold)

        # From the strictest on, until one is worse than the one before it: the laxest take longest.
        # Without folds to tell them apart, the strictest.
        best, least = LogisticRegression(C=_PENALTIES[0], max_iter=1000), np.inf
        for penalty in _PENALTIES if folds else ():
            model = LogisticRegression(C=penalty, max_iter=1000)
            if (found := loss(model)) >= least:
                break
            best, least = model, found
        best = best.fit(inputs, gold)
        weights, bias = best.coef_.T, best.intercept_
        if classes == 2:  # one column says both
            weights, bias = np.hstack([0 * weights, weights]), np.append(0.0, bias)
        weights = weights if basis is None else basis @ weights
        return cls(weights.astype(np.float32), bias.astype(np.float32), float(best.C))

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any]) -> Self:
        """See Head.of."""
        return cls(arrays["weights"], arrays["bias"], settings["penalty"])

    def probabilities(self, vectors: Vectors) -> Probabilities:
        """See Head.probabilities."""
        logits = (vectors @ self.weights + self.bias).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Probabilities = odds / odds.sum(axis=1, keepdims=True)
        return found

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """See Head.arrays."""
        return {"weights": self.weights, "bias": self.bias}

    @property
    def settings(self) -> dict[str, Any]:
        """See Head.settings."""
        return {"penalty": self.penalty}


@dataclass(frozen=True)
class Neighbours:
    """Votes of the `count` nearest rows, each weighed by exp(cosine / temperature).

    A row at a cosine of 0 or less has nothing in common with what is asked, and no vote.
    """

    vectors: NDArray[np.float32]
    gold: NDArray[np.intp]
    classes: int
    count: int
    temperature: float
    kind: ClassVar[str] = "neighbours"
    sees_corpus: ClassVar[bool] = False

    @classmethod
    def fit(
        cls, vectors: Vectors, gold: NDArray[np.intp], classes: int, corpus: Vectors | None = None
    ) -> Self:
        """See Head.fit; each row is left out of its own vote."""
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -np.inf)
        candidates = [
            cls(vectors, gold, classes, count, temperature)
            for count in dict.fromkeys(min(k, len(gold) - 1) for k in _NEIGHBOURS)
            for temperature in _TEMPERATURES
        ]
        return min(candidates, key=lambda head: log_loss(head._votes(similar), gold))

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any]) -> Self:
        """See Head.of."""
        return cls(arrays["vectors"], arrays["gold"], **settings)

    def probabilities(self, vectors: Vectors) -> Probabilities:
        """See Head.probabilities; where no row is near, all classes are as likely."""
        return self._votes(vectors @ self.vectors.T)

    def _votes(self, similar: NDArray[np.float32]) -> Probabilities:
        nearest = np.argpartition(-similar, self.count - 1, axis=1)[:, : self.count]
        cosines = np.take_along_axis(similar, nearest, axis=1).astype(np.float64)
        votes = np.zeros((len(similar), self.classes))
        at = np.arange(len(similar))[:, None], self.gold[nearest]
        np.add.at(votes, at, closeness(cosines, self.temperature))
        votes[~votes.any(axis=1)] = 1
        found: Probabilities = votes / votes.sum(axis=1, keepdims=True)
        return found

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """See Head.arrays."""
        return {"vectors": self.vectors, "gold": self.gold}

    @property
    def settings(self) -> dict[str, Any]:
        """See Head.settings."""
        return {"classes": self.classes, "count": self.count, "temperature": self.temperature}


def closeness(cosines: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """[asked, nearest]: exp(cosine / temperature), of the nearest 1, and 0 of what is not near."""
    near = cosines.astype(np.float64)
    weights = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
    return np.where(near > 0, weights, 0.0)


def log_loss(probabilities: Probabilities, gold: NDArray[np.intp]) -> float:
    """Mean of -log p of the right class, in nats."""
    taken = probabilities[np.arange(len(gold)), gold]
    return -float(np.log(np.maximum(taken, SMALLEST)).mean())
