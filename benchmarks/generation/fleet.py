"""A fleet of 256 replicas: how busy it is, what a row costs the driver, what a re-run costs.

The engines are simulated and share two processes, because a small machine has no room for more;
the code that schedules, retries, reads, renders and commits is the one that users run. Response
lengths are lognormal, 2 % of the replicas die on the way, shards are as large as the planner makes
them. Utilisation counts the slots of all 256 seats (loading a replacement is idle time) from the
first shard on. `--rows` and `--largest` are for shorter runs.
"""

from __future__ import annotations

import os
import random
import resource
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from benchmarks.common.report import Row, arguments, report, row
from benchmarks.generation.virtual import Call, Host, Hosts
from semievol_ray.config import ModelConfig, RayConfig
from semievol_ray.config_file import load_config
from semievol_ray.engines import EnginePool, FleetState
from semievol_ray.progress import Silent
from semievol_ray.ray_session import connect
from semievol_ray.schema import EXAMPLE
from semievol_ray.sources.planner import plan_shard_rows
from semievol_ray.stages import generate
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger

SEATS, SLOTS, TOKENS_PER_SECOND = 256, 32, 40.0
DEATHS = round(0.02 * SEATS)
LENGTHS = {"median_tokens": 30, "sigma": 0.8}
MAX_TOKENS = 256


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=2_000_000, help="of the fleet's corpus")
        parser.add_argument("--largest", type=int, default=10_000_000, help="of the scaling")

    args = arguments(__doc__, add)
    # A dead replica's second shard fails as well, and nobody waits for it.
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
    connect(RayConfig(num_cpus=4))
    rows = utilisation(args.rows)
    rows += scaling(args.largest)
    report(
        rows,
        repeats=1,
        packages=("ray", "pyarrow"),
        json_path=args.json,
        notes=[
            f"{SEATS} seats of {SLOTS} slots, {TOKENS_PER_SECOND:.0f} tokens/s a slot, lengths "
            f"lognormal (median {LENGTHS['median_tokens']}, sigma {LENGTHS['sigma']}, at most "
            f"{MAX_TOKENS} tokens), {DEATHS} deaths, 5 s to load",
            "rows/s counts reading, rendering, parsing and committing, on two processes",
        ],
    )


def utilisation(rows: int) -> list[Row]:
    """How much of the fleet's slots was used, until the last shard was handed out and in all."""
    options = LENGTHS | {"slots": SLOTS, "tokens_per_second": TOKENS_PER_SECOND}
    rng = random.Random(0)
    seconds = rows * 41 / (SEATS * SLOTS * TOKENS_PER_SECOND)
    dies_after = {n: rng.uniform(0.1, 0.8) * seconds for n in rng.sample(range(1, SEATS), DEATHS)}
    with corpus(rows, plan_shard_rows(rows, SEATS)) as run:
        context = make_context(run, options, SEATS, dies_after)
        generate.run(context, 1)
        calls = [call for host in context.hosts for call in ray.get(host.report.remote())]
        check(context, rows)
    start = min(call.start for call in calls)
    end = max(call.end for call in calls)
    watch = context.watch
    assert watch.deaths == DEATHS, f"{watch.deaths} deaths"
    return [
        row(
            f"{rows:,} rows, {SEATS} replicas, until the last shard is out",
            used(calls, start, watch.last_out),
            1.0,
            "every slot always busy",
            unit="share",
            goal=0.95,
        ),
        row(
            f"{rows:,} rows, {SEATS} replicas, tail included",
            used(calls, start, end),
            1.0,
            "every slot always busy",
            unit="share",
            goal=0.90,
        ),
    ]


def used(calls: list[Call], start: float, end: float) -> float:
    """Slot-seconds of work until `end`, over what the seats had. A call works evenly."""
    done = 0.0
    for call in calls:
        inside = max(0.0, min(call.end, end) - call.start)
        done += call.work * min(1.0, inside / max(call.end - call.start, 1e-9))
    return done / (SEATS * SLOTS * (end - start))


def scaling(largest: int) -> list[Row]:
    """Rows a second over sizes, without latency; the driver's memory; the re-run of the largest."""
    sizes = [10**n for n in range(4, 8) if 10**n <= largest]
    rates: dict[int, float] = {}
    again = 0.0
    for size in sizes:
        with corpus(size, 4096 if size > 10_000 else 512) as run:
            context = make_context(run, LENGTHS, 2, {})
            started = time.perf_counter()
            generate.run(context, 1)
            rates[size] = size / (time.perf_counter() - started)
            check(context, size)
            started = time.perf_counter()
            generate.run(context, 1)
            again = time.perf_counter() - started
    out = [
        row(
            f"generate, {size:,} rows",
            rates[size],
            rates[sizes[0]],
            f"ours, {sizes[0]:,} rows",
            unit="rows/s",
        )
        for size in sizes[1:]
    ]
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.append(
        row(
            f"the driver's memory, {sizes[-1]:,} rows",
            driver / 2**30,
            1.0,
            "the limit",
            unit="GiB",
            goal=1.0,
            smaller_is_better=True,
        )
    )
    out.append(
        row(
            f"re-run of generate, {sizes[-1]:,} rows all there",
            again,
            10.0,
            "the limit",
            unit="s",
            goal=1.0,
            smaller_is_better=True,
        )
    )
    return out


class Watch(Silent):
    """Notes when the last shard was handed out, and the deaths."""

    last_out = 0.0
    deaths = 0

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""
        self.deaths = state.deaths
        if state.waiting:
            self.last_out = time.time()


@dataclass
class FleetContext(Context):
    """A context whose pools are virtual."""

    hosts: tuple[Any, ...] = ()

    @property
    def watch(self) -> Watch:
        """What was seen of the fleet."""
        assert isinstance(self.progress, Watch)
        return self.progress

    def pool(self, base: ModelConfig) -> EnginePool:
        """See Context.pool."""
        return EnginePool(base, self.config.generation, self.run, start_replica=Hosts(self.hosts))


def make_context(
    run: RunDirectory, options: dict[str, Any], replicas: int, dies_after: dict[int, float]
) -> FleetContext:
    """A context over a corpus that is there, and two fresh hosts."""
    config = load_config(
        {
            "run_dir": run.uri,
            "model": {"name": "simulated", "engine": "simulated", "engine_options": options},
            "task": {"kind": "label", "labels": list("ABCD")},
            "data": {"labeled": "unused", "unlabeled": "unused"},
            "retrieval": {"k": 0},
            "justify": {"when": "never"},
            "collaborators": [{"model": "base"}],
            "generation": {
                "max_tokens": MAX_TOKENS,
                "score_options": False,
                "replicas": {"min": replicas, "max": replicas},
            },
        }
    )
    hosts = tuple(Host.remote(config.model, dies_after) for _ in range(2))
    ray.get([host.report.remote() for host in hosts])  # their processes are up
    return FleetContext(config, run, StageLedger(run), Watch(), hosts=hosts)


@contextmanager
def corpus(rows: int, shard_rows: int) -> Iterator[RunDirectory]:
    """A run directory that holds an ingested corpus."""
    with tempfile.TemporaryDirectory() as root:
        run = RunDirectory(str(Path(root) / "run"))
        ledger = StageLedger(run)
        folder = ledger.begin("ingest", {}, {}).folder
        outputs = {}
        for number, first in enumerate(range(0, rows, shard_rows)):
            count = min(shard_rows, rows - first)
            index = pa.array(np.arange(first, first + count)).cast(pa.string())
            question = pa.compute.binary_join_element_wise(
                "message ", index, ": which of the teams should see to this?", ""
            )
            empty = {field.name: pa.nulls(count, field.type) for field in EXAMPLE}
            table = pa.table(empty | {"example_id": index, "question": question}, schema=EXAMPLE)
            name = f"{folder}/unlabeled/shard-{number:05}.parquet"
            outputs[name] = run.write_table(name, table)
        found = {"rows": {"unlabeled": rows}, "labels": list("ABCD"), "label_counts": {},
                 "most_options": 0}  # fmt: skip
        ledger.finish("ingest", outputs, (), found, 0)
        ledger.begin("round-1/generate", {}, {})
        yield run


def check(context: FleetContext, rows: int) -> None:
    """Every row is answered once."""
    names = context.run.files("round-1/generate/attempt-1", ".parquet")
    found = sum(context.run.row_count(name) or 0 for name in names)
    assert (len(names), found) == (len(context.shards("unlabeled")), rows)


if __name__ == "__main__":
    main()
