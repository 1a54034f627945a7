"""What a student learns of pseudo-answers: how many of each class, as answers or as distributions.

So many labels of each class; a probe and labels propagated over the corpus, both over MiniLM,
vote, weighed by a fifth of the labels as `stacked` weighs them. The student sees other features,
as a language model does: logistic regression over TF-IDF, fitted to the labels and to the best so
many per cent of each class. It is asked about rows that neither had. Means over the seeds.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.priors import TASKS, draw, embedded
from benchmarks.common.report import Row, arguments, report, row
from semievol_ray.classifiers import HEADS
from semievol_ray.selection import select, stacking
from semievol_ray.selection.policies import Stacked

_VOTERS = ("probe", "propagation")
_PERCENTILES = (50, 75, 100)
_HELD_OUT = 5
# A student is asked about a fifth of the rows that are not labelled.
_ASKED = 5
# Answers less probable than this teach nothing.
_LEAST = 0.01

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=3)

    args = arguments(__doc__, add)
    rows: list[Row] = []
    for name, (load, labels_a_class) in TASKS.items():
        texts = load()
        vectors = [vector for vector, _ in embedded(texts)]
        known = [((text, vector), of) for (text, of), vector in zip(texts, vectors, strict=True)]
        for count in labels_a_class:
            found = [_right(known, count, seed) for seed in range(args.seeds)]
            right = {way: mean(of[way] for of in found) for way in found[0]}
            peer = right.pop("the labels alone")
            claim = f"{name}, {count} labels a class: "
            rows += [
                row(claim + way, ours, peer, "the labels alone", unit="% right")
                for way, ours in right.items()
            ]
    report(rows, repeats=args.seeds, packages=("scikit-learn", "pyarrow"), json_path=args.json)


def _right(known: list[Any], count: int, seed: int) -> dict[str, float]:
    """The percentage of the rows asked about that each student has right."""
    rng = np.random.default_rng(seed)
    labeled, others = draw(known, rng, count, "so many of each class", "as it is")
    cut = len(others) // _ASKED
    classes = tuple(sorted({name for _, name in labeled}))
    texts, vectors, gold = _columns(labeled, classes)
    corpus, corpus_vectors, _ = _columns(others[cut:], classes)
    asked, _, truth = _columns(others[:cut], classes)
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    words.fit(texts + corpus)
    features, questions = words.transform(texts), words.transform(asked)

    def share(rows: Any, said: Integers, weights: Floats) -> float:
        student = LogisticRegression(C=10, max_iter=1000).fit(rows, said, sample_weight=weights)
        return 100 * float(np.mean(student.predict(questions) == truth))

    ones = np.ones(len(gold))
    found = {"the labels alone": share(features, gold, ones)}
    responses, stack = _votes(vectors, gold, corpus_vectors, classes)
    for percentile in _PERCENTILES:
        policy = Stacked(
            percentile=float(percentile),
            classes=classes,
            voter_weights=tuple(stack.weights.items()),
            stack=stack,
        )
        said = select(responses, None, policy=policy, kind="label").filter(
            pa.compute.field("selected")
        )
        at = said["example_id"].to_numpy().astype(int)
        answers = np.array([classes.index(name) for name in said["pseudo_answer"].to_pylist()])
        likely = np.array(said["distribution"].to_pylist())
        row_of, answer_of = np.nonzero(likely > _LEAST)
        every = words.transform([corpus[i] for i in at])
        surely = vstack([features, every]), np.r_[gold, answers], np.ones(len(gold) + len(at))
        softly = (
            vstack([features, every[row_of]]),
            np.r_[gold, answer_of],
            np.r_[ones, likely[row_of, answer_of]],
        )
        found[f"{percentile} % as answers"] = share(*surely)
        found[f"{percentile} % as distributions"] = share(*softly)
    return found


def _votes(
    vectors: Any, gold: Integers, corpus: Any, classes: tuple[str, ...]
) -> tuple[pa.Table, stacking.Stack]:
    """What the voters say of the corpus, and what they are worth on labels they had not seen."""
    # Rows are in a drawn order, so these are so many of each class drawn at random.
    place = np.zeros(len(gold), int)
    for name in range(len(classes)):
        place[gold == name] = np.arange(np.sum(gold == name))
    held = place % _HELD_OUT == 0
    judged, said = {}, []
    with threadpool_limits(1):
        for kind in _VOTERS:
            part = HEADS[kind].fit(vectors[~held], gold[~held], len(classes), corpus)
            judged[kind] = _logs(part.probabilities(vectors[held]))
            whole = HEADS[kind].fit(vectors, gold, len(classes), corpus)
            said.append(_responses(kind, classes, whole.probabilities(corpus)))
    return pa.concat_tables(said), stacking.fit(judged, gold[held].tolist())


def _responses(voter: str, classes: tuple[str, ...], probabilities: Floats) -> pa.Table:
    count = len(probabilities)
    return pa.table(
        {
            "example_id": [f"{i:05}" for i in range(count)],
            "collaborator": [voter] * count,
            "answer": [classes[i] for i in probabilities.argmax(axis=1)],
            "tokens": pa.array([1] * count, pa.int32()),
            "token_logprobs": pa.array([None] * count, pa.list_(pa.float32())),
            "option_logprobs": _logs(probabilities),
        }
    )


def _logs(probabilities: Floats) -> pa.Array:
    logs = np.log(np.maximum(probabilities, stacking.SMALLEST))
    return pa.array(list(logs), pa.list_(pa.float32()))


def _columns(rows: list[Any], classes: tuple[str, ...]) -> tuple[list[str], Any, Integers]:
    texts = [text for (text, _), _ in rows]
    vectors = np.stack([vector for (_, vector), _ in rows])
    return texts, vectors, np.array([classes.index(name) for _, name in rows])


if __name__ == "__main__":
    main()
