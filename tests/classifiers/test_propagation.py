"""Labels spread over the corpus as in the paper, and reach what no label is near to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading

from semievol_ray.classifiers import Classifier
from semievol_ray.classifiers.propagation import Propagation, graph, nearest_rows, spread
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.demo.messages import write_messages
from semievol_ray.retrieval import Vectors


def unit(vectors: np.ndarray) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def arcs(rows: int, noise: float, seed: int) -> tuple[Vectors, np.ndarray]:
    """Two interlocked curves on a sphere: near along each, with no line between them."""
    rng = np.random.default_rng(seed)
    kind, at = rng.integers(0, 2, rows), rng.uniform(0, np.pi, rows)
    x, y = np.cos(at), np.sin(at)
    flat = np.where(kind[:, None] == 0, np.c_[x, y], np.c_[1 - x, 0.4 - y])
    return unit(np.c_[flat + rng.normal(0, noise, flat.shape), np.full(rows, 2.0)]), kind


def test_labels_spread_as_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(60, 6)))
    gold = rng.integers(0, 3, 60)
    known = np.where(np.arange(60) < 20, gold, -1)
    cosines, which = nearest_rows(rows, rows, 8)
    affinity = np.zeros((60, 60))
    for i, (near, w) in enumerate(zip(which, np.exp((cosines - 1) / 0.05), strict=True)):
        affinity[i, near[near != i]] = w[near != i]
    affinity = np.maximum(affinity, affinity.T)
    peer = LabelSpreading(kernel=lambda *_: affinity, alpha=0.8, max_iter=500, tol=1e-12)
    wanted = peer.fit(rows, known).label_distributions_
    one_hot = np.zeros((60, 3), np.float32)
    one_hot[np.arange(20), gold[:20]] = 1
    found = spread(graph(cosines, which), one_hot, 0.8, steps=200)
    assert np.allclose(found / found.sum(1, keepdims=True), wanted, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_is_followed_that_no_line_divides(seed: int) -> None:
    corpus, kind = arcs(900, 0.06, seed)
    asked, truth = arcs(300, 0.06, seed + 100)
    few = np.concatenate([np.flatnonzero(kind == k)[:5] for k in (0, 1)])
    head = Propagation.fit(corpus[few], kind[few], 2, np.delete(corpus, few, axis=0))
    line = LogisticRegression(C=100).fit(corpus[few], kind[few])
    right = np.mean(head.probabilities(asked).argmax(1) == truth)
    assert right > 0.9 and right > np.mean(line.predict(asked) == truth) + 0.03


def test_a_question_that_nothing_reached_is_open() -> None:
    rows = unit(np.array([[1, 0, 0], [0.99, 0.1, 0], [0, 0, 1], [0, 0.1, 0.99]]))
    reached = np.array([[1, 0], [0.9, 0.1], [0, 0], [0, 0]], np.float32)
    p = Propagation(rows, reached, 2, 0.8).probabilities(rows)
    assert np.allclose(p[2:], 0.5) and (p[:2, 0] > 0.9).all()


def test_labels_alone_are_a_graph_too() -> None:
    messages = write_messages(120, 1)
    known = [(m.text, m.team) for m in messages[:40]]
    model = ModelConfig(name="any")
    alone = Classifier.fit("propagation", known, RetrievalConfig(), model)
    p = alone.probabilities([m.text for m in messages[40:]])
    assert np.allclose(p.sum(1), 1)
    right = np.mean(
        [alone.classes[i] == m.team for i, m in zip(p.argmax(1), messages[40:], strict=True)]
    )
    assert right > 0.5
