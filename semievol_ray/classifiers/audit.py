"""Labels that classifiers contradict which had not seen them: confident learning.

Northcutt, Jiang and Chuang, "Confident Learning" (JAIR 2021, arXiv 1911.00068), section 3.1: a
class has a threshold of its own, the mean probability that rows labelled with it have of it; those
that reach another class's say how many labels are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.classifiers.classifier import Classifier
from semievol_ray.classifiers.heads import Probabilities
from semievol_ray.errors import UserError

_FOLDS = 5


@dataclass(frozen=True)
class Contradiction:
    """A label, by its row, and what was expected in its place."""

    row: int
    label: str
    expected: str
    # Of either, out of fold.
    p_label: float
    p_expected: float


def audit(
    known: Sequence[tuple[str, str]],
    fits: Sequence[Callable[[Sequence[tuple[str, str]]], Classifier]],
) -> list[Contradiction]:
    """The labels of (question, class) pairs that are contradicted, the surest first.

    `fits` make the classifiers, whose mean probability counts. Raises UserError where there are too
    few labels.
    """
    classes = sorted({name for _, name in known})
    gold = np.array([classes.index(name) for _, name in known])
    # Of those that a fold leaves, as of any, a classifier needs two of each answer on average.
    if len(classes) > max(2, (len(known) - len(known) // _FOLDS) / 2):
        raise UserError(
            f"{len(known)} labels of {len(classes)} different answers are too few to be held "
            "against each other"
        )
    p = np.mean([out_of_fold(known, fit, classes, gold) for fit in fits], axis=0)
    against = contradicted(p, gold)
    found = [
        Contradiction(i, classes[gold[i]], classes[j], float(p[i, gold[i]]), float(p[i, j]))
        for i, j in enumerate(against)
        if j != gold[i]
    ]
    return sorted(found, key=lambda c: c.p_label - c.p_expected)


def out_of_fold(
    known: Sequence[tuple[str, str]],
    fit: Callable[[Sequence[tuple[str, str]]], Classifier],
    classes: Sequence[str],
    gold: NDArray[np.intp],
) -> Probabilities:
    """[rows, classes]: what classifiers say of rows that they were not fitted to."""
    folds = _folds(gold)
    found = np.zeros((len(known), len(classes)))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        seen = [pair for pair, other in zip(known, folds, strict=True) if other != fold]
        if len({name for _, name in seen}) < 2:
            raise UserError(f"{len(known)} labels are too few to be held against each other")
        classifier = fit(seen)
        columns = np.array([classes.index(name) for name in classifier.classes])
        found[np.ix_(rows, columns)] = classifier.probabilities([known[i][0] for i in rows])
    return found


def contradicted(p: Probabilities, gold: NDArray[np.intp]) -> NDArray[np.intp]:
    """The class that each row is counted for: its label, where nothing speaks against it.

    How many rows of a class belong to another is estimated from those that reach the thresholds
    (the confident joint); as many are taken, by the largest margin ("prune by noise rate").
    """
    rows, classes = np.arange(len(gold)), p.shape[1]
    counts = np.bincount(gold, minlength=classes)
    totals = np.bincount(gold, weights=p[rows, gold], minlength=classes)
    # Who is asked about the only label of a class has not seen that class.
    known = counts > 1
    thresholds = np.where(known, totals / np.maximum(counts, 1), np.inf)
    reached = np.where(p >= thresholds, p, -1.0)
    sure = (reached.max(axis=1) >= 0) & known[gold]
    joint = np.zeros((classes, classes))
    np.add.at(joint, (gold[sure], reached.argmax(axis=1)[sure]), 1)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]
    found, margins = gold.copy(), np.zeros(len(gold))
    for label, other in zip(*np.nonzero(joint), strict=True):
        if label == other:
            continue
        own = rows[gold == label]
        margin = p[own, other] - p[own, label]
        most = np.argsort(-margin, kind="stable")[: round(joint[label, other])]
        for row, by in zip(own[most], margin[most], strict=True):
            if by > margins[row]:
                found[row], margins[row] = other, by
    return found


def _folds(gold: NDArray[np.intp]) -> NDArray[np.intp]:
    """Each class dealt to the folds in turn, in a drawn order that is always the same."""
    order = np.random.default_rng(0).permutation(len(gold))
    order = order[np.argsort(gold[order], kind="stable")]
    folds = np.empty(len(gold), np.intp)
    folds[order] = np.arange(len(gold)) % _FOLDS
    return folds
