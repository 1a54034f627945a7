"""What every stage is given: the run as it reads it, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import EnginePool, Work
from semievol_ray.engines.fleet_size import sized, words
from semievol_ray.machines import Machines
from semievol_ray.progress import Progress, Silent
from semievol_ray.stages.along import Along
from semievol_ray.stages.known_answers import known_answers, some_questions
from semievol_ray.stages.run_view import RunView
from semievol_ray.stages.window import asks_for_window, window_tokens
from semievol_ray.store import layout


@dataclass
class Context(RunView):
    """One run, with its progress and its engines."""

    progress: Progress = field(default_factory=Silent)
    # What the stage that is being done can do of a later one's.
    along: Along | None = None
    _pools: dict[str, EnginePool] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

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
                self._sized(base),
                self.run,
                window=window_tokens(self) if asks_for_window(base) else None,
                labels=known_answers(self, base) if base.is_classifier else (),
                corpus=some_questions(self, base) if base.is_classifier else (),
                adapter_rank=max(lora) if lora and base == self.base else None,
                log_folder=self.log_folder,
            )
        return self._pools[key]

    def _sized(self, base: ModelConfig) -> GenerationConfig:
        """How many replicas a base model has, of what; said where it is the first time."""
        found = sized(
            self.config.generation,
            base,
            Machines.there(),
            shards=len(self.shards("unlabeled")),
            gpus=self.has_gpus,
        )
        said = f"{words(found)} for {base.name.rpartition('/')[2]} (generation.replicas)"
        if said not in self._said:
            self._said.add(said)
            self.progress.say("replicas", said)
        return found

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
        return Path(self.run.full_path(layout.LOGS)) if self.run.is_local else None
