"""Fine-tuning on few labels: at the paper's rate and epochs, at ours, at what the labels choose.

SmolLM2-135M-Instruct on part of Financial PhraseBank's labels, a draw for each seed; the same test
sentences for all. Nothing is chosen by the test set. What the search took is told beside.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

import csv
import random
import statistics
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.accuracy.tasks import fpb, read
from benchmarks.common.report import Row, arguments, report, row
from benchmarks.common.study import accuracy_row, details
from semievol_ray.comparing.compare import compare
from semievol_ray.comparing.study import Study
from semievol_ray.config import RayConfig
from semievol_ray.config_file import load_config
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.ray_session import connect
from semievol_ray.results import Run

PAPER, OURS, TUNED = "the paper's (1e-4, 2)", "gain.py's (1e-3, 3)", "auto"
_SETTINGS: dict[str, dict[str, Any]] = {
    PAPER: {"learning_rate": 1e-4, "epochs": 2},
    OURS: {"learning_rate": 1e-3, "epochs": 3},
    TUNED: {"learning_rate": "auto", "epochs": "auto"},
}


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, nargs="+", default=[0])
        parser.add_argument("--labels", type=int, default=100)
        parser.add_argument("--test", type=int, default=200)
        parser.add_argument("--folds", type=int, default=1)
        parser.add_argument("--work", type=Path, default=Path("tuned-runs"))

    args = arguments(__doc__, add)
    study, searched, rows = Study(), [], list[Row]()
    connect(RayConfig())
    for seed in args.seeds:
        folder = args.work / f"seed-{seed}"
        task = fpb(seed, folder)
        data = dict(task.data)
        for name, count, draw in (("labeled", args.labels, seed), ("test", args.test, 0)):
            data[name] = _some(Path(data[name]), folder / f"{name}.csv", count, draw)
        for name, setting in _SETTINGS.items():
            config = load_config(
                {
                    "run_dir": str(folder / "run"),
                    "model": {
                        "name": str(smollm2()),
                        "engine": "transformers",
                        "dtype": "bfloat16",
                    },
                    "task": task.task,
                    "data": data,
                    "training": {"micro_batch_size": 16, **setting},
                    "tuning": {"folds": args.folds},
                    "evaluation": {"closed_answers": "score"},
                }
            )
            place = folder / f"rate-{setting['learning_rate']}-epochs-{setting['epochs']}"
            found = compare(config, ["sft"], (seed,), folder=str(place))
            study.add(name, seed, found.study.correct["sft"][seed])
            print(study.table(), flush=True)
            if name == TUNED:
                run = Run(str(place / f"seed-{seed}" / "labels"))
                (tuned,) = [m.statistics for m in run.manifests if m.stage == "tune"]
                searched.append({"seed": seed} | tuned)
        rows = [accuracy_row(study, f"fine-tuned, {n}", n, PAPER, goal=None) for n in (OURS, TUNED)]
        passes = [args.folds * sum(t["epochs"] for t in s["tries"]) for s in searched]
        then = [s["chosen"]["epochs"] for s in searched]
        means = statistics.fmean(passes), statistics.fmean(then)
        rows.append(row("epochs that the search trains", *means, "the warm-up", unit="epochs"))
        report(
            rows,
            repeats=len(searched),
            packages=("torch", "transformers", "deepspeed", "ray"),
            json_path=args.json,
            notes=[f"{args.labels} labels, {args.test} test rows, {args.folds} folds"],
            details=details(study, [study.compare(n, TUNED) for n in (PAPER, OURS)])
            | {"searches": searched},
        )


def _some(source: Path, target: Path, count: int, seed: int) -> str:
    """So many of a published file's rows, drawn at random."""
    rows = random.Random(seed).sample(read(source), count)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(target)


if __name__ == "__main__":
    main()
