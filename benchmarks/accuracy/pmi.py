"""A model that was trained on nothing: options by their probability, and by PMI.

SmolLM2-135M-Instruct as it is, on the test sets of FPB (options named by letters) and Banking77 (77
names of several tokens, which the prompt does not list).

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from benchmarks.accuracy.gain import TASKS, config_of
from benchmarks.common.report import arguments, report
from benchmarks.common.study import accuracy_row, details
from semievol_ray.comparing.compare import compare
from semievol_ray.comparing.study import Study
from semievol_ray.config import RayConfig
from semievol_ray.config_file import load_config
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.ray_session import connect
from semievol_ray.validation import merge

WAYS = {"log P": "score", "PMI": "pmi"}


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["fpb", "banking77-10"])
        parser.add_argument("--work", type=Path, default=Path("pmi-runs"))

    args = arguments(__doc__, add)
    study, base = Study(), smollm2()
    connect(RayConfig())
    for name in args.tasks:
        folder = args.work / name
        task = TASKS[name](0, folder / "data")
        for way, answers in WAYS.items():
            changes = {"run_dir": str(folder / "run"), "evaluation": {"closed_answers": answers}}
            config = load_config(merge(config_of(task, base), changes))
            found = compare(config, ["vanilla"], (0,), folder=str(folder / answers))
            study.add(f"{name}, {way}", 0, found.study.correct["vanilla"][0])
            print(study.table(), flush=True)
    pairs = [(f"{name}, log P", f"{name}, PMI") for name in args.tasks]
    report(
        [accuracy_row(study, f"base model, {b}", b, a, goal=None) for a, b in pairs],
        repeats=1,
        packages=("torch", "transformers", "ray"),
        json_path=args.json,
        details=details(study, [study.compare(a, b) for a, b in pairs]),
    )


if __name__ == "__main__":
    main()
