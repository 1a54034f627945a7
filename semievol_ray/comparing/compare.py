"""`semievol compare`: every arm under every seed, whatever they share done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from semievol_ray import pipeline
from semievol_ray.comparing import baselines
from semievol_ray.comparing.arms import ARMS, USUAL
from semievol_ray.comparing.outcome import Cost, Outcome
from semievol_ray.comparing.sharing import begin_from, first_changed
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.progress import Progress, Silent
from semievol_ray.ray_session import connect, disconnect
from semievol_ray.results import Run
from semievol_ray.stages import evaluate
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task
from semievol_ray.validation import merge

# Arms that are no run: what asks them, in a run directory of their own.
_ASKED: Mapping[str, Callable[[Config, str | None], pa.Table]] = {
    baselines.SHOTS: baselines.with_shots,
    baselines.BM25: baselines.with_bm25,
    baselines.ALL_LABELS: baselines.with_all_labels,
}


def compare(
    config: Config,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    *,
    folder: str | None = None,
    at_once: int = 1,
    progress: Progress | None = None,
    done: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run every arm under every seed in `folder` (default: `<run_dir>-compare`), or go on with it.

    The first arm runs alone, and what others share with it is copied; then `at_once` arms run
    beside each other, each on what the cluster has left. `done` is called with what is known
    whenever an arm has ended. Raises UserError for an arm that is unknown or that the task has
    not, and what a run raises.
    """
    if config.data.test is None:
        raise UserError("compare needs data.test: without it nothing is measured")
    names = checked(config, arms or usual(config))
    where = folder or f"{config.run_dir.rstrip('/')}-compare"
    outcome = Outcome(task=config.task.preset)
    # One session for all arms: each would start its own.
    started = connect(config.ray)
    try:
        for seed in seeds:
            folder_of_seed, shown = f"{where}/seed-{seed}", progress or Silent()
            for name, table, run in _arms(config, names, seed, folder_of_seed, shown, at_once):
                outcome.add(name, seed, table, _cost(run))
                if done is not None:
                    done(outcome)
    finally:
        if started:
            disconnect()
    return outcome


def usual(config: Config) -> list[str]:
    """The arms that are compared where nobody says which: those of USUAL that the task has."""
    kind = Task.from_config(config.task).kind
    return [name for name in USUAL if not ARMS[name].kinds or kind in ARMS[name].kinds]


def checked(config: Config, arms: Sequence[str]) -> list[str]:
    """The arms, each once. Raises UserError for one that is unknown or that the task has not."""
    kind = Task.from_config(config.task).kind
    for name in arms:
        if name not in ARMS:
            raise UserError(f"--arms: {name!r} is none; there are {', '.join(ARMS)}")
        if ARMS[name].kinds and kind not in ARMS[name].kinds:
            raise UserError(f"--arms: {name} is for tasks of the kind "
                            f"{' or '.join(ARMS[name].kinds)}, and this one is {kind}")  # fmt: skip
    if "embedder-lr" in arms and config.retrieval.embedder == "tfidf":
        raise UserError("--arms: embedder-lr is tfidf-lr where retrieval.embedder is tfidf")
    return list(dict.fromkeys(arms))


def _arms(
    config: Config, names: Sequence[str], seed: int, where: str, progress: Progress, at_once: int
) -> Iterator[tuple[str, pa.Table, Run]]:
    """Each arm's predictions, as they come, and the run that they are of."""
    # Models of a run need one: the first that is asked for, or the config's own.
    first = next((name for name in names if ARMS[name].changes is not None), "config")
    begun = _with_references(config_of(config, first, seed, f"{where}/{first}"), names)
    main = Run(pipeline.run(begun, progress=progress, redo=first_changed(begun)).uri)
    runs = [main.directory]
    if first in names:
        yield first, main.predictions("SemiEvol"), main

    def answered(name: str, progress: Progress = progress) -> tuple[pa.Table, Run]:
        arm = ARMS[name]
        if arm.changes is None and arm.model not in _ASKED:
            model = _reference(config) if name == "embedder-lr" else arm.model
            return main.predictions(model), main
        own = config_of(config, name, seed, f"{where}/{name}")
        redo = begin_from(runs, own)
        if arm.changes is None:
            kept = baselines.kept(RunDirectory(own.run_dir), arm.model)
            table = _ASKED[arm.model](own, redo) if kept is None else kept
            return table, Run(own.run_dir)
        run = Run(pipeline.run(own, progress=progress, redo=redo).uri)
        runs.append(run.directory)
        return run.predictions("SemiEvol"), run

    others = [name for name in names if name != first]
    if at_once == 1:
        yield from ((name, *answered(name)) for name in others)
        return
    with ThreadPoolExecutor(at_once) as threads:
        work = {n: threads.submit(answered, n, Lines(n, progress)) for n in others}
        yield from ((name, *found.result()) for name, found in work.items())


class Lines(Silent):
    """Of an arm that others run beside: its lines alone, with its name before them."""

    def __init__(self, arm: str, shown: Progress) -> None:
        self._arm, self._shown = arm, shown

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self._shown.say(f"{self._arm}: {stage}", line)

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        self._shown.say(f"{self._arm}: {stage}", note)


def config_of(config: Config, name: str, seed: int, run_dir: str) -> Config:
    """The config of an arm's own run, or of the config's where it has none."""
    arm = ARMS[name]
    values: dict[str, Any] = config.model_dump(mode="json")
    changes = dict(arm.changes or {})
    for section in arm.whole:
        values.pop(section)
    if (
        changes.get("selection", {}).get("policy", config.selection.policy)
        != config.selection.policy
    ):
        values["selection"]["options"] = {}  # they are another policy's
    return load_config(merge(values, changes | {"run_dir": run_dir, "seed": seed}))


def _with_references(config: Config, names: Sequence[str]) -> Config:
    wanted: list[dict[str, Any]] = []
    if "tfidf-lr" in names:
        wanted.append({"embedder": "tfidf"})
    if "embedder-lr" in names:
        wanted.append({"embedder": config.retrieval.embedder, "model": config.retrieval.model})
    values = config.model_dump(mode="json")
    return load_config(merge(values, {"evaluation": {"references": wanted}}))


def _reference(config: Config) -> str:
    return evaluate.reference_name(config.retrieval.embedder)


def _cost(run: Run) -> Cost:
    """What a run took, with what it shares with others."""
    found = [m for m in run.manifests if m.state == "done"]
    tokens = sum(m.statistics.get("tokens") or 0 for m in found)
    prompts = sum(m.statistics.get("prompt_tokens") or 0 for m in found)
    money = sum(m.statistics.get("spent_cost") or 0.0 for m in found)
    return Cost(sum(m.seconds for m in found), tokens + prompts, money)
