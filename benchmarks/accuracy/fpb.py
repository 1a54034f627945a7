"""Financial PhraseBank, the whole pipeline: what do the policies gain over the labels alone?

The split is SemiEvol's own: 452 labelled sentences, 1359 unlabelled, 453 to test on. The base is
a tiny Llama that has read the unlabelled sentences and has seen no true answer and no test
sentence. A seed draws its weights, its reading and the whole run after it. The settings of the
training were fixed by looking at the unlabelled rows' answers under fine-tuning on the labels
alone, before any test row was read.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds `fpb/`.
"""

from __future__ import annotations

import csv
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.accuracy.arms import run_seed, summarize
from benchmarks.accuracy.tiny import TINY_TRAINING, make_base
from benchmarks.common.data import data_folder
from benchmarks.common.report import arguments
from semievol_ray.comparing.study import Study
from semievol_ray.config import RayConfig
from semievol_ray.ray_session import connect

# Every question of the published split opens with the same request, which says nothing.
_ARMS = ("paper", "balanced", "upstream")
_TEMPLATE = "{{ question.split('\n')[-1] }}\nAnswer:"


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=5)

    args = arguments(__doc__, add)
    data, study = data_folder("fpb"), Study()
    with (data / "unlabeled.csv").open(newline="", encoding="utf-8") as file:
        sentences = [row["question"].split("\n")[-1] for row in csv.DictReader(file)]
    connect(RayConfig())
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_base(sentences, "ABC", folder / "base", seed=seed, epochs=5)
            values = config_of(data, folder / "base")
            run_seed(values, folder, seed, study, _ARMS)
        summarize(study, "FPB", _ARMS, seed + 1, args.json)


def config_of(data: Path, base: Path) -> dict[str, Any]:
    """What all the arms have in common."""
    return {
        "model": {"name": str(base), "engine": "transformers"},
        "task": {"preset": "fpb", "instruction": "", "question_template": _TEMPLATE},
        "data": {
            "labeled": str(data / "labeled.csv"),
            "unlabeled": str(data / "unlabeled.csv"),
            "test": str(data / "test.csv"),
            "columns": {"options": "options"},
            "shard_rows": 256,
        },
        "generation": {
            "max_tokens": 2,
            "batch_rows": 128,
            "replicas": {"min": 1, "max": 2},
        },
        "training": TINY_TRAINING,
        "evaluation": {"closed_answers": "score"},
    }


if __name__ == "__main__":
    main()
