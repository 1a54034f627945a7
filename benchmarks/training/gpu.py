"""Training a Llama of 1.1 billion random weights in bf16 on one GPU: tokens/s, MFU, memory.

LoRA, all weights, and all weights with ZeRO-3 and everything off-loaded to the CPU, each in a
process of its own. `--tiny` tries the script where there is no GPU; it measures nothing then.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.common.data import ROOT
from benchmarks.common.report import Row, arguments, report, row

STEPS, WARM_UP = 12, 4
# Prompts of 380 to 620 tokens; TinyLlama's shape.
LARGE = {"hidden": 2048, "layers": 22, "heads": 32}
TINY = {"hidden": 64, "layers": 2, "heads": 4}
CASES: dict[str, dict[str, Any]] = {
    "LoRA, ZeRO-2": {"method": "lora", "zero_stage": 2},
    "all weights, ZeRO-2": {"method": "full", "zero_stage": 2},
    "all weights, ZeRO-3, off-loaded": {
        "method": "full",
        "zero_stage": 3,
        "offload_optimizer": "cpu",
        "offload_parameters": "cpu",
    },
    "all weights, ZeRO-2, checkpointed": {
        "method": "full",
        "zero_stage": 2,
        "gradient_checkpointing": True,
    },
}
GIGABYTE = 1e9


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--tiny", action="store_true", help="a tiny model, on any device")
        parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))

    args = arguments(__doc__, add)
    import torch

    if not (torch.cuda.is_available() or args.tiny):
        raise SystemExit("no GPU here: nothing to measure")
    rows: list[Row] = []
    notes = [
        f"medians of {STEPS - WARM_UP} steps of 32 examples, packed up to 8,192 tokens a pass, bf16"
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, **(TINY if args.tiny else LARGE))
        for case in args.cases:
            rows += measure(folder, case)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report(
        rows,
        repeats=STEPS - WARM_UP,
        packages=["torch", "deepspeed", "transformers", "peft"],
        json_path=args.json,
        notes=[*notes, f"on {device}; MFU leaves out attention's own products and the logits"],
    )


def write_inputs(folder: Path, *, hidden: int, layers: int, heads: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.training.sides import WORDS, write_model
    from semievol_ray.schema import TRAINING

    write_model(folder / "model", hidden, layers, heads)
    rng = np.random.default_rng(0)
    rows = [
        {
            "example_id": str(number),
            "prompt": " ".join(
                f"w{i}" for i in rng.integers(WORDS - 3, size=rng.integers(380, 620))
            ),
            "candidates": [" w1 w2"],
            "candidate_weights": [1.0],
            "weight": 1.0,
        }
        for number in range(32 * STEPS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAINING), folder / "hard.parquet")


def measure(folder: Path, case: str) -> list[Row]:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.training.gpu",
            "case",
            case,
            str(folder),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{case}: failed")
    steps = json.loads(done.stdout.splitlines()[-1])
    speed = statistics.median(step["tokens_per_second"] for step in steps[WARM_UP:])
    used = [step["mfu"] for step in steps[WARM_UP:] if step["mfu"] is not None]
    memory = max(step["memory_bytes"] for step in steps) / GIGABYTE
    found = [
        row(f"{case}: speed", speed, None, "no peer", unit="tokens/s"),
        row(f"{case}: most memory", memory, None, "no peer", unit="GB"),
    ]
    if used:
        goal = None if "off-loaded" in case else 0.45
        mfu = statistics.median(used)
        found.append(
            row(f"{case}: MFU", mfu, 1.0, "the data sheet's peak", unit="share", goal=goal)
        )
    return found


def train_case(case: str, folder: Path) -> None:
    from dataclasses import asdict

    from benchmarks.training.sides import make_job
    from semievol_ray.training import train

    os.environ.setdefault("OMP_NUM_THREADS", "8")
    settings: dict[str, Any] = {
        "precision": "bf16",
        "global_batch_size": 32,
        "micro_batch_size": 8,
        "workers": 1,
    }
    name = "".join(c for c in case if c.isalnum())
    job = make_job(folder, name, epochs=1, **(settings | CASES[case]))
    steps: list[dict[str, Any]] = []
    train(job, on="process", on_progress=lambda progress: steps.append(asdict(progress)))
    print(json.dumps(steps))


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        train_case(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
