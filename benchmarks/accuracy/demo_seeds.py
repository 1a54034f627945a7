"""The demo over several seeds: does SemiEvol beat fine-tuning on the labels alone?

Each seed draws its own messages, labels and test set, so rows of different seeds are
independent. `semievol demo --seed N` is one of these runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.common.report import Row, arguments, report, row
from benchmarks.common.study import accuracy_row, details
from semievol_ray.comparing.study import Study
from semievol_ray.demo import run_demo


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=5)

    args = arguments(__doc__, add)
    study, seconds = Study(), []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            run = run_demo(Path(folder), seed=seed)
            seconds.append(time.monotonic() - started)
            for model in ("vanilla", "SFT", "SemiEvol"):
                study.add(model, seed, run.predictions(model)["correct"].to_pylist())
        print(f"seed {seed}: {seconds[-1]:.0f} s", flush=True)
    print(study.table())
    comparison = study.compare("SFT", "SemiEvol")
    print(comparison.line())
    rows: list[Row] = [
        accuracy_row(study, "demo: SemiEvol's accuracy", "SemiEvol", "SFT", goal=1.0),
        row(
            "demo: seeds on which SemiEvol is better",
            comparison.seeds_won,
            args.seeds,
            "all seeds",
            unit="seeds",
            goal=1.0,
        ),
        row(
            "demo: seconds from start to table",
            statistics.median(seconds),
            240,
            "four minutes",
            unit="s",
            goal=1.0,
            smaller_is_better=True,
        ),
    ]
    report(
        rows,
        repeats=args.seeds,
        packages=("torch", "transformers", "deepspeed", "ray"),
        json_path=args.json,
        details=details(study, [comparison, study.compare("vanilla", "SFT")]),
    )


if __name__ == "__main__":
    main()
