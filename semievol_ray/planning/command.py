"""`semievol plan`: a probe, the estimate, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from semievol_ray.config import Config, given
from semievol_ray.engines import resolve_engine
from semievol_ray.engines.fleet_size import sized as sized_fleet
from semievol_ray.errors import UserError
from semievol_ray.machines import Machines, gib
from semievol_ray.model_files import weights
from semievol_ray.planning.estimate import Line, Plan, Size, estimate
from semievol_ray.planning.probe import Measured, probe
from semievol_ray.progress import Progress
from semievol_ray.ray_session import connect
from semievol_ray.sources import SourceFile
from semievol_ray.sources.planner import estimate_rows
from semievol_ray.stages import ingest
from semievol_ray.training.group_size import least_memory
from semievol_ray.training.group_size import sized as sized_group

_SUMMED = ("tokens", "cost", "gpu_hours")


@dataclass(frozen=True)
class Asked:
    """What a plan is for, where that is not what is here."""

    rows: int | None = None
    gpus: int | None = None
    replicas: int | None = None
    rows_per_second: float | None = None
    probe_rows: int = 32


def plan(config: Config, asked: Asked, progress: Progress) -> tuple[Plan, Measured, Size]:
    """Probe the config's engine and training here, and estimate the run that is asked for."""
    files = ingest.sources(config)
    rows = asked.rows or _rows_of(config, files["unlabeled"])
    measured = probe(config, asked.probe_rows, progress)
    connect(config.ray)
    machines = here = Machines.there()
    if asked.gpus is not None:
        machines = replace(machines, gpus=float(asked.gpus))
    test = estimate_rows(files["test"]) if files.get("test") else 0
    shard_rows = ingest.shard_rows_of(config, rows)
    base = resolve_engine(config.model)
    shards = max(1, rows // shard_rows)
    fleet = sized_fleet(config.generation, base, machines, shards=shards, gpus=machines.gpus >= 1)
    training = config.training_for("evolve")
    group = sized_group(training, base, machines, gpus=machines.gpus >= 1)
    measured_by = sized_group(training, base, here, gpus=here.gpus >= 1)
    size = Size(
        unlabeled=rows,
        test=test or 0,
        replicas=asked.replicas or given(fleet.replicas.max),
        gpus_per_replica=fleet.gpus_per_replica or 0.0,
        training_gpus=given(group.workers) * (group.gpus_per_worker or 0.0),
        training_speed=given(group.workers) / given(measured_by.workers),
        shard_rows=shard_rows,
        rows_per_second=asked.rows_per_second,
    )
    return estimate(config, measured, size), measured, size


def _rows_of(config: Config, files: Sequence[SourceFile]) -> int:
    rows, most = estimate_rows(files), config.data.max_unlabeled_rows
    if rows is None:
        rows = most
    if rows is None:
        raise UserError(
            "data.unlabeled: how many rows it has is not known before it is read (packed files, or "
            "a data set of a hub): say about how many with --rows"
        )
    return rows if most is None else min(rows, most)


def plan_lines(config: Config, found: Plan, measured: Measured, size: Size) -> Iterator[str]:
    """The plan as text."""
    yield (
        f"{measured.labels:,} labels, about {size.unlabeled:,} unlabelled and {size.test:,} test "
        f"rows; replicas: {size.replicas}; one takes {1000 * measured.row_seconds:,.0f} ms for a "
        f"row's {measured.voters} voters, a training step {measured.step_seconds:.2f} s"
    )
    if size.training_speed != 1:
        yield (
            f"a training step is taken to be {size.training_speed:g} times as fast on the planned "
            "workers, as if what they tell each other took no time"
        )
    yield ""
    yield f"{'stage':<18} {'time':>10} {'tokens':>15} {'cost':>10} {'GPU hours':>10}"
    together = Line(
        "together", found.seconds, *(sum(getattr(x, n) for x in found.lines) for n in _SUMMED)
    )
    for line in [*found.lines, together]:
        tokens = f"{line.tokens:,.0f}" if line.tokens else ""
        cost = f"{line.cost:,.2f}" if line.cost else ""
        hours = f"{line.gpu_hours:,.1f}" if line.gpu_hours else ""
        yield f"{line.stage:<18} {_time(line.seconds):>10} {tokens:>15} {cost:>10} {hours:>10}"
    yield ""
    yield f"storage {gib(found.storage_bytes)}; {_memory(config)}"


def _memory(config: Config) -> str:
    base = resolve_engine(config.model)
    size = weights(base)
    if size is None:
        return "the model's size is not known here"
    group = sized_group(config.training_for("evolve"), base, Machines(), gpus=False)
    return (
        f"a replica {gib(size.bytes)} of weights, a training worker "
        f"{gib(least_memory(group, size))} before activations"
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
