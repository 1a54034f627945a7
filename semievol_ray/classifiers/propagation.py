"""Labels spread over the corpus, from each row to those that are near it.

Zhou, Bousquet, Lal, Weston and Schölkopf, "Learning with Local and Global Consistency" (NIPS 2003),
on the graph of nearest rows: where questions of one kind lie close together, a few labels reach all
of them. A question that is not in the graph is answered by those of its rows that are nearest to it
(Delalleau, Bengio and Le Roux, "Efficient Non-Parametric Function Induction in Semi-Supervised
Learning", AISTATS 2005).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from semievol_ray.classifiers.heads import SMALLEST, Probabilities, closeness, log_loss
from semievol_ray.retrieval import Vectors

# What is tried, and chosen by log loss on labels left out: first the one, then the other.
_NEAREST = (5, 10, 20)
_REACHES = (0.8, 0.5, 0.9)
_FOLDS = 5
# A row at a cosine less by this counts less by the factor e.
_TEMPERATURE = 0.05
# At the longest reach, what would still come from farther off is 0.9^20, an eighth.
_STEPS = 20
# Questions that are looked up at once: so many times the graph's rows are the similarities held.
_ASKED = 1024


@dataclass(frozen=True)
class Propagation:
    """The graph's rows, and how much of each class reached each of them."""

    vectors: NDArray[np.float32]  # (rows, dimensions)
    reached: NDArray[np.float32]  # (rows, classes); each row sums to 1, or to 0 if nothing did
    nearest: int
    # How much a row hears from its neighbours, in [0, 1); the rest is what it was labelled with.
    reach: float
    kind: ClassVar[str] = "propagation"
    sees_corpus: ClassVar[bool] = True

    @classmethod
    def fit(
        cls, vectors: Vectors, gold: NDArray[np.intp], classes: int, corpus: Vectors | None = None
    ) -> Self:
        """See Head.fit; the labels alone are a graph too, of which little is to be had."""
        rows = vectors if corpus is None else np.concatenate([vectors, corpus])
        known = np.zeros((len(rows), classes), np.float32)
        known[np.arange(len(gold)), gold] = 1
        counts = list(dict.fromkeys(min(k, len(rows) - 1) for k in _NEAREST))
        near, which = nearest_rows(rows, rows, max(counts) + 1)
        graphs = {k: graph(near[:, : k + 1], which[:, : k + 1]) for k in counts}

        def loss(count: int, reach: float) -> float:
            return log_loss(_left_out(graphs[count], known, len(gold), reach), gold)

        count = min(counts, key=lambda k: loss(k, _REACHES[0]))
        reach = min(_REACHES, key=lambda r: loss(count, r))
        return cls(rows, _shares(spread(graphs[count], known, reach)), count, reach)

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any]) -> Self:
        """See Head.of."""
        return cls(arrays["vectors"], arrays["reached"], **settings)

    def probabilities(self, vectors: Vectors) -> Probabilities:
        """See Head.probabilities; where nothing near was reached, all classes are as likely."""
        return np.concatenate(list(self._answers(vectors)))

    def _answers(self, vectors: Vectors) -> Iterator[Probabilities]:
        for start in range(0, len(vectors), _ASKED):
            asked = vectors[start : start + _ASKED]
            cosines, rows = nearest_rows(asked, self.vectors, self.nearest)
            weights = closeness(cosines, _TEMPERATURE)
            found = np.einsum("qk,qkc->qc", weights, self.reached[rows], dtype=np.float64)
            found += SMALLEST
            yield found / found.sum(axis=1, keepdims=True)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """See Head.arrays."""
        return {"vectors": self.vectors, "reached": self.reached}

    @property
    def settings(self) -> dict[str, Any]:
        """See Head.settings."""
        return {"nearest": self.nearest, "reach": self.reach}


def nearest_rows(
    asked: Vectors, rows: Vectors, count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines [asked, count] of the nearest `rows`, nearest first, and which they are."""
    import faiss

    cosines, which = faiss.knn(
        np.ascontiguousarray(asked), np.ascontiguousarray(rows), count,
        metric=faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip
    return cosines, which


def graph(cosines: NDArray[np.float32], which: NDArray[np.int64]) -> Any:
    """S = D^(-1/2) W D^(-1/2), sparse: W holds exp(cosine / temperature) between neighbours.

    Rows are neighbours where either is among the other's nearest, and none is its own, nor of one
    with which it has nothing in common (a cosine of 0 or less).
    """
    from scipy.sparse import csr_array, diags_array

    count, width = which.shape
    ends = np.repeat(np.arange(count), width), which.ravel()
    weights = np.exp((cosines.ravel() - 1) / _TEMPERATURE).astype(np.float32)
    other = (ends[0] != ends[1]) & (cosines.ravel() > 0)
    found = csr_array((weights[other], (ends[0][other], ends[1][other])), (count, count))
    found = found.maximum(found.T)
    roots = 1 / np.sqrt(np.maximum(found.sum(axis=1), np.finfo(np.float32).tiny))
    scale = diags_array(roots.astype(np.float32))
    return (scale @ found @ scale).tocsr()


def spread(links: Any, known: NDArray[np.float32], reach: float, steps: int = _STEPS) -> Any:
    """F <- reach S F + (1 - reach) Y, so many times from Y: [rows, classes]."""
    found = known
    for _ in range(steps):
        found = reach * (links @ found) + (1 - reach) * known
    return found


def _left_out(
    links: Any, known: NDArray[np.float32], labels: int, reach: float
) -> NDArray[np.float64]:
    """What reaches the labels, the first rows of `known`, as if they were none; by folds."""
    fold = np.random.default_rng(0).permutation(labels) % _FOLDS
    found = np.zeros((labels, known.shape[1]))
    for number in range(_FOLDS):
        left = np.flatnonzero(fold == number)
        others = known.copy()
        others[left] = 0
        found[left] = _shares(spread(links, others, reach)[left])
    return found


def _shares(spread_over: NDArray[np.float32]) -> NDArray[np.float32]:
    total = spread_over.sum(axis=1, keepdims=True)
    return np.divide(spread_over, total, out=np.zeros_like(spread_over), where=total > 0)
