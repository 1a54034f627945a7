"""What the voters that are no language models have right of a corpus, before anything is trained.

So many labels of each class; the corpus is the other rows. Over frozen MiniLM: the probe,
the neighbours, and labels propagated over the corpus; beside them scikit-learn's label spreading
over the same vectors and its self-training around logistic regression, both as they come. Means
over the seeds.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.priors import TASKS, draw, embedded
from benchmarks.common.report import Row, arguments, report, row
from semievol_ray.classifiers import HEADS

_SPREADING, _SELF_TRAINING = "LabelSpreading (knn)", "SelfTrainingClassifier"
_Gold = NDArray[np.intp]


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=3)

    args = arguments(__doc__, add)
    rows: list[Row] = []
    for name, (load, labels_a_class) in TASKS.items():
        known = embedded(load())
        for count in labels_a_class:
            said = [_right(known, count, seed) for seed in range(args.seeds)]
            right = {who: mean(of[who] for of in said) for who in said[0]}
            ours = right.pop("propagation")
            claim = f"{name}, {count} labels a class: propagation"
            rows += [row(claim, ours, peer, who, unit="% right") for who, peer in right.items()]
    report(rows, repeats=args.seeds, packages=("scikit-learn", "faiss-cpu"), json_path=args.json)


def _right(known: list[tuple[Any, str]], count: int, seed: int) -> dict[str, float]:
    """The percentage of the corpus that each has right."""
    labeled, others = draw(
        known, np.random.default_rng(seed), count, "so many of each class", "as it is"
    )
    classes = sorted({name for _, name in labeled})
    vectors, gold = _arrays(labeled, classes)
    corpus, truth = _arrays(others, classes)
    found = _of_scikit_learn(vectors, gold, corpus)
    with threadpool_limits(1):
        for kind, head in HEADS.items():
            fitted = head.fit(vectors, gold, len(classes), corpus)
            found[kind] = fitted.probabilities(corpus).argmax(axis=1)
    return {who: 100 * float(np.mean(said == truth)) for who, said in found.items()}


def _of_scikit_learn(vectors: Any, gold: _Gold, corpus: Any) -> dict[str, _Gold]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

    rows, known = np.concatenate([vectors, corpus]), np.full(len(vectors) + len(corpus), -1)
    known[: len(gold)] = gold
    spread = LabelSpreading(kernel="knn").fit(rows, known)
    taught = SelfTrainingClassifier(LogisticRegression(C=10, max_iter=1000)).fit(rows, known)
    return {
        _SPREADING: spread.transduction_[len(gold) :],
        _SELF_TRAINING: taught.predict(corpus),
    }


def _arrays(rows: list[tuple[Any, str]], classes: list[str]) -> tuple[Any, _Gold]:
    return np.stack([vector for vector, _ in rows]), np.array([classes.index(n) for _, n in rows])


if __name__ == "__main__":
    main()
