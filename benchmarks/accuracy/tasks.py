"""The data sets of benchmarks/gain.py: what is labelled under a seed, and how it is asked."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.data import data_folder
from semievol_ray.ingestion.examples import content_id

# Every question of the published FPB opens with the same request, which the preset says better.
_QUESTION = "{{ question.split('\\n')[-1] }}"
_OPTIONS = (
    "{% for option in options %}{{ letters[loop.index0] }}. {{ option }}\n{% endfor %}Answer:"
)
# Of Banking77: a seed draws the labels and these many others; the test rows are the same for all.
_UNLABELED, _TEST, _CHOICE = 5000, 1000, 1000
_EPOCHS = {"epochs": 3}


@dataclass(frozen=True)
class Rows:
    """Questions with the names of their classes, and the ids that a run gives them."""

    texts: list[str]
    classes: list[str]
    ids: list[str]


@dataclass(frozen=True)
class GainTask:
    """A task under one seed: its part of the config, and its rows as a classifier sees them.

    `labeled` and `test` are None where the options differ from example to example.
    """

    data: dict[str, Any]
    task: dict[str, Any]
    labeled: Rows | None = None
    test: Rows | None = None
    # Asked with the test rows, and of the part to train on: what is tried out is chosen by them.
    choice: Rows | None = None
    # Of the warm-up, and of what is trained on more rows.
    warmup: dict[str, Any] = field(default_factory=lambda: _EPOCHS)
    evolve: dict[str, Any] = field(default_factory=lambda: _EPOCHS)


def fpb(seed: int, folder: Path) -> GainTask:
    """Financial PhraseBank in the authors' split, the same for every seed."""
    source = data_folder("fpb")
    return GainTask(
        data=_published(source),
        task={"preset": "fpb", "question_template": f"{_QUESTION}\n{_OPTIONS}"},
        labeled=_choices(source / "labeled.csv"),
        test=_choices(source / "test.csv"),
    )


def arc(seed: int, folder: Path) -> GainTask:
    """ARC-Challenge in the authors' split, the same for every seed."""
    return GainTask(data=_published(data_folder("arc")), task={"preset": "arc"})


def banking77(seed: int, folder: Path, labels_a_class: int) -> GainTask:
    """Banking77 with so many labels of each of its 77 intents."""
    source = data_folder("banking77")
    labeled, others = draw_labels(read(source / "train.csv"), seed, labels_a_class)
    test = random.Random(0).sample(read(source / "test.csv"), _TEST)
    unlabeled, rest = others[:_UNLABELED], others[_UNLABELED:]
    # A question that is asked twice is asked once: ingest leaves its repetition out.
    known = {_id(row["text"]) for row in test}
    once: dict[str, dict[str, str]] = {}
    for row in rest:
        once.setdefault(_id(row["text"]), row)
    choice = [row for name, row in once.items() if name not in known][:_CHOICE]
    parts = {"labeled": labeled, "unlabeled": unlabeled, "test": test + choice}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        write(folder / f"{name}.csv", rows)
    return GainTask(
        data={name: str(folder / f"{name}.csv") for name in parts}
        | {"columns": {"question": "text", "answer": "category"}},
        task={
            "kind": "label",
            "labels": sorted({row["category"] for row in labeled}),
            "instruction": "What does the bank's customer want?",
            "question_template": "{{ question }}",
        },
        labeled=_intents(labeled),
        test=_intents(test),
        choice=_intents(choice),
        warmup={"epochs": 10},
    )


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a published file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows of Banking77 as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        writer.writerows(rows)


def draw_labels(
    rows: list[dict[str, str]], seed: int, labels_a_class: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The labelled rows, as many of each intent, and all the others, in a drawn order."""
    rng, count = random.Random(seed), {row["category"]: 0 for row in rows}
    shuffled = rng.sample(rows, len(rows))
    labeled: list[dict[str, str]] = []
    unlabeled: list[dict[str, str]] = []
    for row in shuffled:
        taken = count[row["category"]] < labels_a_class
        count[row["category"]] += taken
        (labeled if taken else unlabeled).append(row)
    return labeled, unlabeled


def _published(source: Path) -> dict[str, Any]:
    names = ("labeled", "unlabeled", "test")
    return {n: str(source / f"{n}.csv") for n in names} | {"columns": {"options": "options"}}


def _choices(path: Path) -> Rows:
    """Classifiers answer by the text of the option: letters mean nothing to them."""
    rows = read(path)
    options = [json.loads(row["options"]) for row in rows]
    return Rows(
        [row["question"].split("\n")[-1] for row in rows],
        [of["ABCDEFGH".index(r["answer"])] for r, of in zip(rows, options, strict=True)],
        [_id(r["question"], of) for r, of in zip(rows, options, strict=True)],
    )


def _intents(rows: list[dict[str, str]]) -> Rows:
    texts = [row["text"] for row in rows]
    return Rows(texts, [row["category"] for row in rows], [_id(text) for text in texts])


def _id(question: str, options: list[str] | None = None) -> str:
    return content_id({"question": question, "context": None, "options": options})
