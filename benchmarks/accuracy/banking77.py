"""Banking77, the whole pipeline on 77 intents: 20 labels a class, the rest unlabelled.

A seed draws which 1540 of the 10,003 training questions are labelled, the weights of the base (a
tiny Llama that has read the unlabelled questions, with a token for each intent's name) and the
whole run after it. The test set is
the published one, 3080 questions. The training's settings are those of benchmarks/fpb.py.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds `banking77/`.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.accuracy.arms import run_seed, summarize
from benchmarks.accuracy.tasks import draw_labels, read, write
from benchmarks.accuracy.tiny import TINY_TRAINING, make_base
from benchmarks.common.data import data_folder
from benchmarks.common.report import arguments
from semievol_ray.comparing.study import Study
from semievol_ray.config import RayConfig
from semievol_ray.ray_session import connect

_LABELS_A_CLASS = 20
_ARMS = ("paper", "balanced")


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=3)

    args = arguments(__doc__, add)
    source, study = data_folder("banking77"), Study()
    connect(RayConfig())
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            labeled, unlabeled = draw_labels(read(source / "train.csv"), seed, _LABELS_A_CLASS)
            write(folder / "labeled.csv", labeled)
            write(folder / "unlabeled.csv", unlabeled)
            write(folder / "test.csv", read(source / "test.csv"))
            intents = sorted({row["category"] for row in labeled})
            texts = [row["text"] for row in unlabeled]
            base = folder / "base"
            make_base(texts, intents, base, seed=seed, epochs=4, answer_tokens=True)
            values = config_of(folder, intents)
            run_seed(values, folder, seed, study, _ARMS)
        summarize(study, "Banking77", _ARMS, seed + 1, args.json)


def config_of(folder: Path, intents: list[str]) -> dict[str, Any]:
    """What all the arms have in common."""
    return {
        "model": {"name": str(folder / "base"), "engine": "transformers"},
        "task": {
            "kind": "label",
            "labels": intents,
            "instruction": "",
            "question_template": "{{ question }}\nAnswer:",
        },
        "data": {
            "labeled": str(folder / "labeled.csv"),
            "unlabeled": str(folder / "unlabeled.csv"),
            "test": str(folder / "test.csv"),
            "columns": {"question": "text", "answer": "category"},
            "shard_rows": 512,
        },
        "generation": {
            "max_tokens": 2,
            "batch_rows": 128,
            "replicas": {"min": 1, "max": 2},
        },
        "training": TINY_TRAINING,
    }


if __name__ == "__main__":
    main()
