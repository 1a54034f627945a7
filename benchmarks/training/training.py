"""Training against bare DeepSpeed, padded batches, TRL's SFTTrainer and the textbook's memory.

Two gloo workers on CPUs, one thread each; examples as long as those of FPB. The sides of a claim
train in the same two processes and take turns.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.data import ROOT
from benchmarks.common.report import Row, arguments, report, row
from benchmarks.training.sides import REPEATS, STEP_REPEATS, make_job, write_examples, write_model

WORKERS = 2
MEGABYTE = 1e6


def main() -> None:
    args = arguments(__doc__)
    # Ray's workers are nice, and would starve beside anything else.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_examples(folder / "hard.parquet")
        write_examples(folder / "soft.parquet", soft=True)
        rows = [
            *step_time(folder),
            *packing(folder, notes),
            *against_trl(folder, notes),
            *memory(folder, notes),
            *start_up(folder),
        ]
    report(
        rows,
        repeats=REPEATS,
        packages=["torch", "deepspeed", "ray", "transformers", "peft", "trl", "accelerate"],
        json_path=args.json,
        notes=[
            f"medians of {REPEATS} steps, of {STEP_REPEATS} against the bare loop, a turn each; "
            "start-up and memory once",
            "Llama of 4 layers of 256, float32 but for memory; 2 gloo workers, 1 thread each",
            *notes,
        ],
    )


def step_time(folder: Path) -> list[Row]:
    return [
        row(
            f"a step of ZeRO-{stage}, all weights, packed",
            seconds["ours"],
            seconds["bare"],
            "bare deepspeed.initialize loop, batches in memory",
            unit="s",
            goal=0.97,
            smaller_is_better=True,
        )
        for stage, seconds in run_workers("steps", folder).items()
    ]


def packing(folder: Path, notes: list[str]) -> list[Row]:
    rows = []
    for case, found in run_workers("layouts", folder).items():
        kind, batch = case.split()
        speed = {name: int(batch) / s for name, s in found["seconds"].items()}
        loss = found["losses"]
        what = {"hard": "one answer", "soft": "soft targets of 3 answers"}[kind]
        claim = f"packed, {what}, global batch {batch}"
        peers = {
            "in order": "padded, 4 rows a pass as they come, bare loop",
            "sorted": "padded, 4 rows of like length a pass",
        }
        for side, peer in peers.items():
            rows.append(row(claim, speed["packed"], speed[side], peer, unit="examples/s", goal=1.5))
        notes.append(
            f"{claim}: loss after {REPEATS + 1} steps {loss['packed']:.5f}, padded by length "
            f"{loss['sorted']:.5f}, as they come {loss['in order']:.5f}"
        )
    return rows


def against_trl(folder: Path, notes: list[str]) -> list[Row]:
    found = run_workers("trl", folder)
    examples = make_job(folder, "").config.global_batch_size
    speed = {name: examples / s for name, s in found["seconds"].items()}
    loss = {name: statistics.mean(losses) for name, losses in found["losses"].items()}
    notes.append(
        f"LoRA: mean loss of the last {(REPEATS + 1) // 2} steps {loss['ours']:.3f}, TRL's "
        f"{loss['trl']:.3f} in its own order of the same examples"
    )
    return [
        row(
            f"LoRA, global batch {examples}, ZeRO-2, packed",
            speed["ours"],
            speed["trl"],
            "TRL SFTTrainer, DDP, padded",
            unit="examples/s",
            goal=1.0,
        )
    ]


def memory(folder: Path, notes: list[str]) -> list[Row]:
    """bf16 and AdamW: 2 bytes of weight, 2 of gradient, 12 of float32 weight and moments."""
    shutil.rmtree(folder / "model")
    write_model(folder / "model", hidden=512, layers=10)
    rows, held = [], []
    for stage in range(4):
        found = run_workers(f"memory-{stage}", folder)
        whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
        textbook = found["parameters"] * (whole + (16 - whole) / WORKERS)
        rows.append(
            row(
                f"most memory of a worker, ZeRO-{stage}, {found['parameters'] / 1e6:.0f} M weights",
                found["peak"] / MEGABYTE,
                textbook / MEGABYTE,
                f"textbook: {whole} bytes a weight and {16 - whole} shared by {WORKERS}",
                unit="MB",
                smaller_is_better=True,
            )
        )
        held.append(f"{found['held'] / MEGABYTE:.0f}")
    notes.append(
        "memory is the most in a step, with activations, buckets and temporaries of AdamW, which "
        f"the textbook leaves out; held between steps, ZeRO-0 to 3: {', '.join(held)} MB"
    )
    return rows


def start_up(folder: Path) -> list[Row]:
    """Seconds of a whole training of one step, the first of a Ray session and the second."""
    from semievol_ray.training import train

    rows = []
    for workers in (1, WORKERS):
        seconds = []
        with ray_session():
            for number in range(2):
                options: dict[str, Any] = {"workers": workers, "method": "lora", "epochs": 0.01}
                job = make_job(folder, f"start-{workers}-{number}", **options)
                start = time.perf_counter()
                train(job)
                seconds.append(time.perf_counter() - start)
        rows.append(
            row(
                f"second training of a Ray session, {workers} worker{'s' if workers > 1 else ''}",
                seconds[1],
                seconds[0],
                "the first",
                unit="s",
                smaller_is_better=True,
            )
        )
    return rows


@contextmanager
def ray_session() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=WORKERS + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def run_workers(what: str, folder: Path) -> dict[str, Any]:
    """What the first of two workers found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORKERS)}
    log = folder / f"{what}.log"
    with log.open("wb") as output:
        workers = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "benchmarks.training.sides",
                    what,
                    str(folder),
                ],
                cwd=ROOT,
                env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output,
                stderr=output,
            )
            for rank in range(WORKERS)
        ]
        codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"{what} failed:\n{log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads((folder / f"{what}.json").read_text())
    return found


if __name__ == "__main__":
    main()
