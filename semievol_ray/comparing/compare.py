"""`semievol compare`: every arm under every seed, whatever they share done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from semievol_ray import pipeline
from semievol_ray.comparing import baselines
from semievol_ray.comparing.arms import ARMS, EMBEDDER, TFIDF, USUAL, Arm
from semievol_ray.comparing.outcome import Cost, Outcome
from semievol_ray.comparing.sharing import begin_from, first_changed
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.progress import Progress, Silent
from semievol_ray.ray_session import connect, disconnect
from semievol_ray.results import Run
from semievol_ray.selection.policies import POLICIES
from semievol_ray.stages import evaluate
from semievol_ray.store import RunDirectory, longer_uri
from semievol_ray.tasks import Task
from semievol_ray.validation import merge

# Models that each run compares in its end, and that need no evolution.
_OF_A_RUN = ("vanilla", "SFT", TFIDF, EMBEDDER)
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
    more: Mapping[str, Arm] = MappingProxyType({}),
    folder: str | None = None,
    at_once: int = 1,
    progress: Progress | None = None,
    done: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run every arm under every seed in `folder` (default: `<run_dir>-compare`), or go on with it.

    The first arm runs alone, and what others share with it is copied; then `at_once` arms run
    beside each other, each on what the cluster has left. Arms beside those of ARMS, or in their
    place, are `more`. `done` is called with what is known whenever an arm has ended. Raises
    UserError for an arm that is unknown or that the task has not, and what a run raises.
    """
    if config.data.test is None:
        raise UserError("compare needs data.test: without it nothing is measured")
    if config.continues is not None:
        raise UserError("compare begins from the labels alone: leave `continues` out")
    known = {**ARMS, **more}
    wanted = {name: known[name] for name in checked(config, arms or usual(config), known)}
    where = folder or folder_of(config)
    outcome = Outcome(task=config.task.preset)
    # One session for all arms: each would start its own.
    started = connect(config.ray)
    try:
        for seed in seeds:
            folder_of_seed, shown = longer_uri(where, f"/seed-{seed}"), progress or Silent()
            for name, table, run in _arms(config, wanted, seed, folder_of_seed, shown, at_once):
                outcome.add(name, seed, table, _cost(run))
                if done is not None:
                    done(outcome)
    finally:
        if started:
            disconnect()
    return outcome


def folder_of(config: Config) -> str:
    """Where the arms of a config are, if nobody says where: beside its run."""
    return longer_uri(config.run_dir, "-compare")


def usual(config: Config) -> list[str]:
    """The arms that are compared where nobody says which: those of USUAL that the task has."""
    kind = Task.from_config(config.task).kind
    return [name for name in USUAL if not ARMS[name].kinds or kind in ARMS[name].kinds]


def checked(
    config: Config, arms: Sequence[str], known: Mapping[str, Arm] = MappingProxyType(ARMS)
) -> list[str]:
    """The arms, each once. Raises UserError for one that is unknown or that the task has not."""
    kind = Task.from_config(config.task).kind
    for name in arms:
        if name not in known:
            raise UserError(f"--arms: {name!r} is none; there are {', '.join(known)}")
        if known[name].kinds and kind not in known[name].kinds:
            kinds = " or ".join(known[name].kinds)
            raise UserError(f"--arms: {name} is for tasks of the kind {kinds}; this one is {kind}")
    if "embedder-lr" in arms and config.retrieval.embedder == "tfidf":
        raise UserError("--arms: embedder-lr is tfidf-lr where retrieval.embedder is tfidf")
    return list(dict.fromkeys(arms))


def _arms(
    config: Config,
    arms: Mapping[str, Arm],
    seed: int,
    where: str,
    progress: Progress,
    at_once: int,
) -> Iterator[tuple[str, pa.Table, Run]]:
    """Each arm's predictions, as they come, and the run that they are of."""
    runs: list[RunDirectory] = []
    main: Run | None = None
    # The models of a run are found in the first that is asked for.
    first = next((name for name, arm in arms.items() if arm.changes is not None), None)
    if first is not None:
        own = config_of(config, arms[first], seed, longer_uri(where, f"/{first}"))
        begun = with_references(own, arms)
        main = Run(pipeline.run(begun, progress=progress, redo=first_changed(begun)).uri)
        runs.append(main.directory)
        yield first, main.predictions("SemiEvol"), main

    def answered(name: str, progress: Progress) -> tuple[pa.Table, Run]:
        arm = arms[name]
        asked = arm.model if arm.changes is None else None
        if asked in _OF_A_RUN and main is not None:
            return main.predictions(_name_of(asked, config)), main
        folder = "labels" if asked in _OF_A_RUN else name
        own = config_of(config, arm, seed, longer_uri(where, f"/{folder}"))
        if asked is None:
            run = Run(pipeline.run(own, progress=progress, redo=begin_from(runs, own)).uri)
            runs.append(run.directory)
            return run.predictions("SemiEvol"), run
        ask = _ASKED.get(asked)
        if ask is None:
            own, asked = with_references(own, arms), _name_of(asked, config)
            ask = partial(baselines.of_labels, name=asked)
        return ask(own, begin_from(runs, own)), Run(own.run_dir)

    others = [name for name in arms if name != first]
    # Without a first run these are models of one run of their own, which is one at a time.
    alone = [n for n in others if at_once == 1 or (main is None and arms[n].model in _OF_A_RUN)]
    yield from ((name, *answered(name, progress)) for name in alone)
    work = {n: partial(answered, n, Lines(n, progress)) for n in others if n not in alone}
    failed = None
    for name, found in beside(work, at_once).items():
        failed = failed or found.exception()
        if found.exception() is None:
            yield (name, *found.result())
    if failed is not None:
        raise failed


def beside(
    work: Mapping[str, Callable[[], tuple[pa.Table, Run]]], at_once: int
) -> dict[str, Future[tuple[pa.Table, Run]]]:
    """So much work at once, in threads that end with the process: who breaks off waits for none."""
    found: dict[str, Future[tuple[pa.Table, Run]]] = {name: Future() for name in work}
    waiting: SimpleQueue[str | None] = SimpleQueue()
    for name in (*work, *[None] * at_once):
        waiting.put(name)

    def take() -> None:
        while (name := waiting.get()) is not None:
            try:
                found[name].set_result(work[name]())
            except BaseException as error:
                found[name].set_exception(error)

    for _ in range(at_once):
        threading.Thread(target=take, daemon=True).start()
    return found


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


def config_of(config: Config, arm: Arm, seed: int, run_dir: str) -> Config:
    """The config of an arm's own run, or of the config's where it has none."""
    values: dict[str, Any] = config.model_dump(mode="json")
    changes = dict(arm.changes or {})
    for section in arm.whole:
        values.pop(section)
    policy = changes.get("selection", {}).get("policy", config.selection.policy)
    if policy != config.selection.policy:
        # They are another policy's: how many rows one trusts is not how many the other should.
        usual = type(config.selection).model_fields["percentile"].default
        values["selection"] |= {"options": {}, "percentile_over": "unlabeled", "percentile": usual}
        if not POLICIES[policy].reads_options:
            values["evolve"]["soft_targets"] = False
    return load_config(merge(values, changes | {"run_dir": run_dir, "seed": seed}))


def with_references(config: Config, arms: Collection[str]) -> Config:
    """The config with the linear classifiers among the arms as its references."""
    wanted: list[dict[str, Any]] = []
    if "tfidf-lr" in arms:
        wanted.append({"embedder": "tfidf"})
    if "embedder-lr" in arms:
        names = ("embedder", "model", "base_url", "api_key_env")
        wanted.append({name: getattr(config.retrieval, name) for name in names})
    values = config.model_dump(mode="json")
    return load_config(merge(values, {"evaluation": {"references": wanted}}))


def _name_of(model: str, config: Config) -> str:
    """What a run calls a model that it compares."""
    return evaluate.reference_name(config.retrieval.embedder) if model == EMBEDDER else model


def _cost(run: Run) -> Cost:
    """What a run took, with what it shares with others."""
    found = [m for m in run.manifests if m.state == "done"]
    tokens = sum(m.statistics.get("tokens") or 0 for m in found)
    prompts = sum(m.statistics.get("prompt_tokens") or 0 for m in found)
    money = sum(m.statistics.get("spent_cost") or 0.0 for m in found)
    return Cost(sum(m.seconds for m in found), tokens + prompts, money)
