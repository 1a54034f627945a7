"""What every stage is given, and what every stage gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config, ModelConfig, TrainingConfig
from semievol_ray.engines import EnginePool, FleetState, Work, resolve_engine
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.tasks import Task

Stage = Literal["warmup", "evolve"]


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; `total` units are to be done."""

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """Some units are done."""

    def fleet(self, stage: str, state: FleetState) -> None:
        """How the replicas that work for a stage are; called every few seconds at least."""

    def finish(self, stage: str, note: str) -> None:
        """A stage is over."""


class Silent:
    """The progress of a run that nobody watches."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made: files with their rows, and figures worth keeping."""

    outputs: dict[str, int]
    statistics: dict[str, Any]


@dataclass(frozen=True)
class ModelRef:
    """A model that answers: a base model, alone or under an adapter of this run."""

    base: ModelConfig
    adapter: str | None = None


@dataclass
class Context:
    """One run, as its stages see it."""

    config: Config
    run: RunDirectory
    ledger: StageLedger
    progress: Progress = field(default_factory=Silent)
    _pools: dict[str, EnginePool] = field(default_factory=dict)

    @cached_property
    def task(self) -> Task:
        """The task, with the labels that ingest found."""
        return Task.from_config(self.config.task, self.ingested["labels"])

    @property
    def ingested(self) -> dict[str, Any]:
        """Ingest's statistics."""
        manifest = self.ledger.get("ingest")
        assert manifest is not None and manifest.state == "done"
        return manifest.statistics

    def shards(self, split: str) -> list[str]:
        """Names of a split's example shards, in order."""
        manifest = self.ledger.get("ingest")
        assert manifest is not None
        return sorted(n for n in manifest.outputs if n.startswith(f"data/{split}/"))

    @cached_property
    def labeled(self) -> pa.Table:
        """All labelled examples: they are few."""
        return pa.concat_tables([self.run.read_table(name) for name in self.shards("labeled")])

    # -- models ------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> ModelConfig:
        """The base model, its engine decided."""
        return resolve_engine(self.config.model)

    def model(self, name: str, round_number: int) -> ModelRef:
        """A collaborator's model: base, warm (of that round), one of `models`, or a path.

        The model that labels in a later round is the one that the round before evolved: that
        fine-tuning was on just the labels this round starts from.
        """
        if name == "base":
            return ModelRef(self.base)
        if name == "warm":
            folder = "round-1/warmup" if round_number == 1 else f"round-{round_number - 1}/evolve"
            stage: Stage = "warmup" if round_number == 1 else "evolve"
            return self.trained(f"{folder}/model", self.config.training_for(stage))
        if name in self.config.models:
            return ModelRef(resolve_engine(self.config.models[name]))
        other = self.config.model.model_copy(update={"name": name, "revision": None})
        return ModelRef(resolve_engine(other))

    def trained(self, folder: str, training: TrainingConfig) -> ModelRef:
        """What a training stage left in a folder of the run: an adapter, or a whole model."""
        path = str(self.run.local_folder(folder))
        if training.method == "lora":
            return ModelRef(self.base, path)
        return ModelRef(self.base.model_copy(update={"name": path, "revision": None}))

    # -- engines -----------------------------------------------------------------------------------

    def pool(self, base: ModelConfig) -> EnginePool:
        """The pool of a base model; it lives until another model or a training needs its place.

        One pool at a time: two that wait for each other's CPUs or GPUs would wait for ever.
        """
        key = base.model_dump_json()
        if key not in self._pools:
            self.release_engines()
            trainings = [self.config.training_for("warmup"), self.config.training_for("evolve")]
            lora = [t.lora.rank for t in trainings if t.method == "lora"]
            self._pools[key] = EnginePool(
                base,
                self.config.generation,
                self.run,
                adapter_rank=max(lora) if lora and base == self.base else None,
                log_folder=self.log_folder,
            )
        return self._pools[key]

    def map(
        self,
        stage: str,
        base: ModelConfig,
        work: Work,
        shards: Iterable[tuple[str, str]],
        *arguments: Any,
        enough: Callable[[], bool] | None = None,
    ) -> Iterator[Any]:
        """`EnginePool.map` over shards on a base model's pool, which the progress is shown."""
        watch = partial(self.progress.fleet, stage)
        return self.pool(base).map(work, shards, *arguments, watch=watch, enough=enough)

    def release_engines(self) -> None:
        """Stop every engine, so that training has the machines to itself."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    @property
    def log_folder(self) -> Path | None:
        """Where workers' chatter goes; null where the run lives in an object store."""
        return Path(self.run.full_path("logs")) if self.run.is_local else None

    # -- shards ------------------------------------------------------------------------------------

    def missing(self, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Those (source, target) shards whose target is not there with a row for the source's.

        A target is only ever committed whole, so its presence is enough.
        """
        for source, target in pairs:
            if self.run.row_count(target) is None:
                yield source, target


def selected_ids(run: RunDirectory, name: str) -> set[str]:
    """Ids of the examples that a selection shard keeps."""
    table = run.read_table(name, ["example_id", "selected"])
    return set(table.filter(pc.field("selected"))["example_id"].to_pylist())
