"""Voters that are shown labels, after a warm-up that never saw any and after one that did.

The demo's messages, its tiny Llama or SmolLM2-135M-Instruct: the share of unlabelled rows that each
voter, shown 0 to 3 labels, has right alone, with `warmup.shots` 0 (the paper's) and 3.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.common.report import arguments, report
from benchmarks.common.study import accuracy_row, details
from semievol_ray import pipeline
from semievol_ray.comparing.study import Study
from semievol_ray.config_file import load_config
from semievol_ray.demo import demo_config, write_demo_data
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.results import Run
from semievol_ray.validation import merge

SHOTS = (0, 1, 2, 3)
WARMUP_SHOTS = (0, 3)


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        parser.add_argument("--model", choices=("tiny", "smollm2"), default="smollm2")
        parser.add_argument(
            "--rows", type=int, default=400, help="unlabelled, that are asked about"
        )

    args = arguments(__doc__, add)
    study, model = Study(), smollm2() if args.model == "smollm2" else None
    with tempfile.TemporaryDirectory() as name:
        for done, seed in enumerate(args.seeds, start=1):
            for shots in WARMUP_SHOTS:
                folder = Path(name) / f"{seed}-{shots}"
                write_demo_data(folder / "data", seed)
                for voter, right in answered(folder, seed, shots, args.rows, model).items():
                    study.add(called(shots, voter), seed, right)
            print(study.table(), flush=True)
            pairs = [(called(0, voter), called(3, voter)) for voter in SHOTS]
            report(
                [
                    accuracy_row(study, f"right alone, {after}", after, before, goal=None)
                    for before, after in pairs
                ],
                repeats=done,
                packages=("torch", "transformers", "deepspeed", "ray"),
                json_path=args.json,
                notes=[f"{args.rows} unlabelled rows a seed, 96 labels, {args.model}"],
                details=details(study, [study.compare(*pair) for pair in pairs]),
            )


def called(warmup_shots: int, shots: int) -> str:
    return f"{shots} shots, warm-up with {warmup_shots or 'none'}"


def answered(
    folder: Path, seed: int, warmup_shots: int, rows: int, model: Path | None
) -> dict[int, list[bool]]:
    """Which rows each voter has right, by the number of labels that it is shown."""
    values: dict[str, Any] = demo_config(folder, seed, real_model=model).model_dump(mode="json")
    changes = {
        "data": {"max_unlabeled_rows": rows},
        "collaborators": [{"shots": shots, "temperature": 0.0} for shots in SHOTS],
        "warmup": {"shots": warmup_shots},
        "selection": {"policy": "balanced"},
    }
    run = Run(pipeline.run(load_config(merge(values, changes)), until="generate").uri)
    withheld = run.examples("withheld")
    responses = run.responses()
    gold_of = dict(zip(*(withheld[n].to_pylist() for n in ("example_id", "answer")), strict=True))
    found = {}
    for shots in SHOTS:
        own = responses.filter(pc.field("collaborator") == f"warm-{shots}shot")
        gold = pa.array([gold_of[i] for i in own["example_id"].to_pylist()], pa.string())
        found[shots] = pc.fill_null(pc.equal(own["answer"], gold), False).to_pylist()
    return found


if __name__ == "__main__":
    main()
