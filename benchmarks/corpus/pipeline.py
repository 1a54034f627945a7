"""A corpus from its files to training rows: rows a second of every stage, the driver's memory.

Ingest, generation by one simulated voter, selection (paper) and evolution's training rows, over
10^5, 10^6 and 10^7 rows of JSON lines, each size in a driver of its own; what one more row costs
the driver is the slope between the two largest.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.report import Row, arguments, report, row
from benchmarks.corpus.texts import write_corpus, write_labels
from semievol_ray.config import Config, RayConfig
from semievol_ray.config_file import load_config
from semievol_ray.demo import MODEL
from semievol_ray.pipeline import run as run_stages
from semievol_ray.ray_session import connect
from semievol_ray.stages import evolve, generate, select
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger

CPUS = os.cpu_count() or 1
LIMIT_GIB = 1.0


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--largest", type=int, default=10_000_000)
        parser.add_argument("--one", type=Path, help="do the corpus in a folder, and print figures")

    args = arguments(__doc__, add)
    if args.one:
        print(json.dumps(all_stages(args.one)))
        return
    report(
        list(sizes(args)),
        repeats=1,
        packages=("ray", "pyarrow"),
        json_path=args.json,
        notes=[
            f"{CPUS} CPUs; a row has 100 bytes; one in fifty repeats another; each size once",
            "generation by the simulated engine: reading, rendering, parsing, committing",
        ],
    )


def sizes(args: Namespace) -> Iterator[Row]:
    """Every stage over each size, in a process of its own."""
    figures = {}
    for size in (10**n for n in range(5, 8) if 10**n <= args.largest):
        with tempfile.TemporaryDirectory() as folder:
            different = write_corpus(Path(folder) / "corpus", size)
            write_labels(Path(folder) / "labels.jsonl")
            command = [sys.executable, "-m", "benchmarks.corpus.pipeline", "--one", folder]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        figures[size] = json.loads(found.stdout.splitlines()[-1])
        assert figures[size].pop("rows") == different
        print(f"{size:,} rows: {figures[size]}", file=sys.stderr)
    first, last = min(figures), max(figures)
    for stage in ("ingest", "generate", "select", "evolve's rows"):
        for size in figures:
            rate, smallest = (s / figures[s][stage] for s in (size, first))
            peer = None if size == first else smallest
            name = "–" if size == first else f"ours, {first:,} rows"
            yield row(f"{stage}, {size:,} rows", rate, peer, name, unit="rows/s")
    for size in figures:
        gib = figures[size]["driver"]
        claim = f"the driver's memory, {size:,} rows"
        yield row(claim, gib, LIMIT_GIB, "the limit", unit="GiB", goal=1.0, smaller_is_better=True)
    if len(figures) > 1:
        before = sorted(figures)[-2]
        grown = figures[last]["driver"] - figures[before]["driver"]
        slope = max(0.0, grown) * 2**30 / (last - before)
        yield row("the driver's memory, a row more", slope, None, "–", unit="bytes")


def all_stages(folder: Path) -> dict[str, float]:
    """Seconds of each stage over a folder's corpus, and the most memory that the driver had."""
    config = corpus_config(folder / "corpus", folder / "labels.jsonl", str(folder / "run"))
    connect(RayConfig(num_cpus=CPUS))
    seconds: dict[str, float] = {}
    with timed(seconds, "ingest"):
        run_stages(config, until="ingest")
    run = RunDirectory(config.run_dir)
    context = Context(config, run, StageLedger(run))
    for stage in (generate.STAGE, select.STAGE):
        name = stage.full_name(1)
        context.ledger.begin(name, {}, {})
        with timed(seconds, stage.name):
            outcome = stage.run(context, 1)
        context.release_engines()
        context.ledger.finish(name, outcome.outputs, outcome.files, outcome.statistics, 0.0)
    with timed(seconds, "evolve's rows"):
        trained = sum(rows for _, rows in evolve.write_selected(context, 1, "evolve"))
    rows = context.ingested.rows["unlabeled"]
    assert 0.4 * rows < trained < 0.6 * rows, f"{trained} of {rows} rows were selected"
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds | {"driver": gib, "rows": rows}


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds that a block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def corpus_config(corpus: Path | str, labels: Path | str, run_dir: str) -> Config:
    """A run over a corpus whose one voter is simulated; the base model is the demo's."""
    simulated = {"name": "simulated", "engine": "simulated", "engine_options": {"median_tokens": 8}}
    return load_config(
        {
            "run_dir": run_dir,
            "model": {"name": str(MODEL), "engine": "transformers"},
            "models": {"voter": simulated},
            "collaborators": [{"model": "voter", "shots": 0}],
            "task": {"kind": "label", "labels": list("ABCD")},
            "data": {
                "labeled": str(labels),
                "unlabeled": str(corpus),
                "columns": {"question": "text", "answer": "label"},
            },
            "retrieval": {"k": 0},
            "justify": {"when": "never"},
            "generation": {"score_options": False, "replicas": {"min": CPUS, "max": CPUS}},
        }
    )


if __name__ == "__main__":
    main()
