"""The actor that hosts one engine.

It knows nothing of tasks or shards: a stage sends it a function of the engine, and what comes
back is that function's (small) result. The tables themselves go straight to the run directory.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from semievol_ray.config import ModelConfig
from semievol_ray.engines.isolation import IsolatingEngine
from semievol_ray.engines.metrics import MeteredEngine
from semievol_ray.engines.protocol import Engine, EngineOptions
from semievol_ray.store import RunDirectory

Work = Callable[..., Awaitable[Any]]


def create_engine(model: ModelConfig, options: EngineOptions, name: str) -> Engine:
    """The engine, loaded; `name` says where its class is, as `config.ENGINES` does."""
    module, _, cls = name.partition(":")
    # Imported here: each engine pulls in its own heavy library.
    engine: Engine = getattr(importlib.import_module(module), cls)(model, options)
    return engine


class Done(NamedTuple):
    """What came of some work, and what the engine has to say by now (see Engine.notes)."""

    result: Any
    notes: tuple[str, ...]


class Replica:
    """One engine in one process."""

    def __init__(
        self,
        model: ModelConfig,
        run: RunDirectory,
        log_file: str | None,
        options: EngineOptions,
        engine: str,
    ) -> None:
        if log_file is not None:
            _redirect_output(Path(log_file))
        self._model, self._run, self._options, self._class = model, run, options, engine

    async def ready(self) -> str:
        """Load the engine, the first time; returns the id of the node that it is on.

        Not in the constructor: what is raised there reaches the driver as an actor's death, and
        a model that does not exist would be tried again and again.
        """
        import ray

        if not hasattr(self, "engine"):
            self._run.check_visible()
            # What this run trained is named by a reference, and fetched to this machine here.
            local = {"name": self._run.localise(self._model.name)}
            model = self._model.model_copy(update=local)
            engine = create_engine(model, self._options, self._class)
            self.engine = MeteredEngine(engine, self._model.name)
        return ray.get_runtime_context().get_node_id()

    async def pulse(self) -> int:
        """See Engine.pulse."""
        return self.engine.pulse() if hasattr(self, "engine") else 0

    async def answered(self) -> int:
        """Requests that its engine has answered so far."""
        return self.engine.answered if hasattr(self, "engine") else 0

    async def run(self, work: Work, *arguments: Any) -> Done:
        """`await work(engine, *arguments)`."""
        return Done(await work(self.engine, *arguments), self.engine.notes())

    async def run_isolated(
        self, run: RunDirectory, record: str, work: Work, *arguments: Any
    ) -> Done:
        """The same for work that replicas died of: what kills is found, and left out."""
        isolating = IsolatingEngine(self.engine, run, record)
        return Done(await work(isolating, *arguments), self.engine.notes())

    async def close(self) -> None:
        """Shut the engine down: some have processes of their own."""
        if hasattr(self, "engine"):
            await self.engine.close()


def _redirect_output(log_file: Path) -> None:
    """Send what this process and its children print to a file, not over the user's screen."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sink = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
