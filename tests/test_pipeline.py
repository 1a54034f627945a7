"""Any sequence of runs, kills, changed settings, redos and rounds, against a small reference.

The stages are stubs: a shard holds the digest of the stage's settings and of what it read. So what
a finished run must hold follows from its config alone, and one shard that is left over from other
settings, or was made from what is gone, shows at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semievol_ray import UserError, pipeline
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.steps import Step
from semievol_ray.store import RunDirectory, StageLedger, digest, layout

SEQUENCES = int(os.environ.get("SEMIEVOL_SEQUENCES", "150"))
SHARDS = 2


class Killed(BaseException):
    """The process is gone: nothing that it would still do happens."""


@dataclasses.dataclass
class World:
    """One run directory, and what is counted while something runs there."""

    folder: Path
    # Writes and deletions until the kill, the last of them half-way; null: nobody kills.
    writes_left: int | None = None
    # What replicas that everybody has forgotten commit while a stage works.
    late: dict[Path, bytes] = dataclasses.field(default_factory=dict)
    worked: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def count(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise Killed


@pytest.fixture
def world(monkeypatch) -> Iterator[Any]:
    """Makes worlds in which stages are stubs, kills can be planned and nobody waits for a disk."""
    current: list[World] = []

    def stub(stage: Stage) -> Stage:
        def work(context: Any, number: int) -> Outcome:
            return write_shards(context, stage, number, current[-1])

        along = None if stage.along is None else lambda context, number: None
        return dataclasses.replace(
            stage,
            run=work,
            works_with="nothing",
            along=along,
            ends=lambda statistics: statistics.get("ends", False),
        )

    for name in ("FIRST", "EACH_ROUND", "LAST"):
        monkeypatch.setattr(pipeline, name, tuple(map(stub, getattr(pipeline, name))))
    monkeypatch.setattr(pipeline.ingest, "STAGE", pipeline.FIRST[0])
    monkeypatch.setattr(pipeline, "Lease", lambda _: contextlib.nullcontext(NoLease()))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write_bytes, delete_file = RunDirectory.write_bytes, RunDirectory.delete_file

    def write(self: RunDirectory, name: str, content: bytes) -> None:
        if name != layout.LIVE:
            current[-1].count()
        write_bytes(self, name, content)

    def delete(self: RunDirectory, name: str) -> None:
        if name != layout.LIVE:
            current[-1].count()
        delete_file(self, name)

    monkeypatch.setattr(RunDirectory, "write_bytes", write)
    monkeypatch.setattr(RunDirectory, "delete_file", delete)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:

        def make() -> World:
            folder = Path(tempfile.mkdtemp(dir=root))
            for name in ("labeled", "unlabeled", "test"):
                (folder / f"{name}.csv").write_text(f"question,answer\n{name},A\n")
            current.append(World(folder))
            return current[-1]

        yield make


class NoLease:
    def check(self) -> None:
        """tests/store/test_lease.py is about leases."""


def write_shards(context: Any, stage: Stage, number: int, world: World) -> Outcome:
    """A stage's work: shards that say what they were made from. Those that are there are kept."""
    name = stage.full_name(number)
    world.worked[name] += 1
    for path, content in world.late.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    step = next(s for s in pipeline.steps(context.config) if s.name == name)
    read = {}
    for source in step.inputs:
        if context.ledger.get(source) is None:
            continue  # the rounds ended before it
        folder = context.folder(source)
        texts = [context.run.read_json(f"{folder}/shard-{i:05d}.parquet") for i in range(SHARDS)]
        read[source] = texts[0]
        assert texts[0] is not None and texts[0] == texts[1], f"{source} is mixed or not done"
    outputs, content = {}, digest([name, step.settings, read])
    for i in range(SHARDS):
        shard = f"{context.folder(name)}/{layout.shard(i)}"
        if context.run.read_json(shard) is None:
            context.run.write_json(shard, content)
        outputs[shard] = 1
    statistics: dict[str, Any] = {"source_files": {}} if name == "ingest" else {}
    statistics["ends"] = ends_the_rounds(step, content)
    return Outcome(outputs, statistics)


def ends_the_rounds(step: Step, content: str) -> bool:
    """Whether no round follows: one in four guards says so, and selections that have a limit."""
    limited = step.stage.name == "select" and step.settings.get("selection.stop_below")
    return (limited or step.stage.name == "guard") and int(content, 16) % 4 == 0


def expected(config: Config) -> dict[str, str]:
    """What each stage of a finished run holds: the reference."""
    found: dict[str, str] = {}
    last = None
    for step in pipeline.steps(config):
        follows_rounds = step.stage.name in ("baselines", "evaluate")
        if last is not None and step.round_number > last and not follows_rounds:
            continue
        read = {name: found[name] for name in step.inputs if name in found}
        found[step.name] = digest([step.name, step.settings, read])
        if ends_the_rounds(step, found[step.name]):
            last = step.round_number
    return found


def held(world: World, config: Config) -> dict[str, set[str]]:
    """What each stage of the run holds, by its manifest."""
    run = RunDirectory(str(world.run))
    ledger = StageLedger(run)
    return {
        step.name: {run.read_json(name) for name in manifest.outputs}
        for step in pipeline.steps(config)
        if (manifest := ledger.get(step.name)) is not None and manifest.state == "done"
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shards_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("shard-*")}


def make_config(world: World, command: dict[str, Any]) -> Config:
    return load_config(
        {
            "run_dir": str(world.run),
            "model": {"name": "sim", "engine": "simulated"},
            "task": {"kind": "label", "labels": ["A", "B"]},
            "data": {
                split: str(world.folder / f"{split}.csv")
                for split in ("labeled", "unlabeled", "test")
            },
            "training": {"learning_rate": command["learning_rate"], "workers": command["workers"]},
            "selection": {"percentile": command["percentile"]},
            "justify": {"when": command["justify"]},
            "iteration": {
                "rounds": command["rounds"],
                "mode": command["mode"],
                "guard": command.get("guard", False),
                "stop_below": command.get("stop_below", 0.0),
            },
        }
    )


COMMAND = st.fixed_dictionaries(
    {
        "learning_rate": st.sampled_from([1e-4, 1e-4, 1e-4, 1e-3]),
        "percentile": st.sampled_from([50, 50, 40]),
        "justify": st.sampled_from(["always", "always", "always", "never"]),
        "rounds": st.integers(1, 3),
        "mode": st.sampled_from(["mine", "mine", "relabel"]),
        "guard": st.sampled_from([True, True, True, False]),
        "stop_below": st.sampled_from([0.1, 0.1, 0.0]),
        "workers": st.sampled_from([1, 2]),  # a matter of speed: it may change at any time
        "redo": st.sampled_from(
            [None, None, None, "ingest", "warmup", "retrieve", "baselines", "round-1/generate",
             "round-1/select", "round-1/evolve", "round-2/select", "round-1/evaluate"]
        ),
        "kill": st.one_of(st.none(), st.integers(0, 90)),
        "foreign": st.booleans(),
        "late": st.booleans(),
    }
)  # fmt: skip


def execute(world: World, command: dict[str, Any], redo: str | None, kill: int | None) -> str:
    """One `semievol run`: "done", "killed", or what it refuses."""
    config = make_config(world, command)
    redo = redo if redo in expected(config) else None
    before, stood = files_of(world.run), standing(world, config, redo)
    world.worked.clear()
    world.writes_left = kill
    try:
        pipeline.run(config, redo=redo)
    except Killed:
        return "killed"
    except UserError as error:
        after = files_of(world.run)
        assert after == before, "something was changed before it was refused"
        return str(error)
    finally:
        world.writes_left = None
    assert not stood & world.worked.keys(), "what stood was done again"
    made_of_it = dependants(config, redo) & expected(config).keys()
    assert made_of_it <= world.worked.keys(), "what was made from it was left"
    assert held(world, config) == {name: {value} for name, value in expected(config).items()}
    return "done"


def dependants(config: Config, redo: str | None) -> set[str]:
    """A stage that is done anew, and all that read it or what was made from it."""
    found = {redo} if redo else set()
    for step in pipeline.steps(config):
        if found & set(step.inputs):
            found.add(step.name)
    return found


def standing(world: World, config: Config, redo: str | None) -> set[str]:
    """The stages whose work a run must not do again: done, as wanted, from what stands."""
    ledger = StageLedger(RunDirectory(str(world.run)))
    found: set[str] = set()
    for step in pipeline.steps(config):
        manifest = ledger.get(step.name)
        if (
            manifest is not None
            and manifest.state == "done"
            and manifest.settings == step.settings
            and step.name != redo
            and set(step.inputs) <= found
            and all(
                manifest.inputs.get(name) == ledger.done(name).fingerprint for name in step.inputs
            )
        ):
            found.add(step.name)
    return found


@pytest.mark.timeout(600 + SEQUENCES)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(commands=st.lists(COMMAND, min_size=2, max_size=7))
def test_whatever_happens_a_finished_run_holds_what_its_config_says(world, commands) -> None:
    here = world()
    foreign: list[Path] = []
    seen: dict[Path, bytes] = {}
    for command in commands:
        here.late = seen if command["late"] else {}
        said = execute(here, command, command["redo"], command["kill"])
        seen |= shards_of(here.run)
        if said == "killed":
            said = execute(here, command, None, None)
        # A refusal says how to go on, and going on that way ends.
        for _ in range(8):
            if said == "done":
                break
            assert said.startswith("stage ") and "--redo " in said, said
            said = execute(here, command, said.rpartition("--redo ")[2], None)
        assert said == "done", said
        seen |= shards_of(here.run)
        if command["foreign"]:
            for number, folder in enumerate(sorted(here.run.rglob("attempt-*"))):
                foreign.append(folder / f"mine-{number}.txt")
                foreign[-1].write_text("of the user")
        assert all(path.exists() for path in foreign), "a file of the user's was deleted"


def test_rounds_up_and_down_and_up_again_use_what_is_there(world) -> None:
    here = world()
    command = dict(learning_rate=1e-4, percentile=50, justify="always", mode="mine", workers=1)
    for rounds, new in ((1, 9), (2, 5), (1, 0), (2, 0)):
        assert execute(here, command | {"rounds": rounds}, None, None) == "done"
        assert sum(here.worked.values()) == new, f"{rounds} rounds: {here.worked}"
    # The first round is the same in either mode; the second is not.
    said = execute(here, command | {"rounds": 2, "mode": "relabel"}, None, None)
    assert "round-2/generate: setting iteration.mode was 'mine'" in said


def test_what_follows_a_stage_that_is_done_anew_takes_its_new_settings(world) -> None:
    here = world()
    command = dict(learning_rate=1e-4, percentile=50, justify="always", mode="mine", workers=1)
    assert execute(here, command | {"rounds": 1}, None, None) == "done"
    config = make_config(here, command | {"rounds": 1})
    asked = config.evaluation.model_copy(update={"shots": 1})
    changed = config.model_copy(update={"evaluation": asked})
    for redo in (None, "round-1/evaluate"):
        with pytest.raises(UserError, match="baselines: setting evaluation.shots was 0"):
            pipeline.run(changed, redo=redo)
    here.worked.clear()
    pipeline.run(changed, redo="round-1/evolve")
    assert set(here.worked) == {"round-1/evolve", "baselines", "round-1/evaluate"}


def test_a_round_that_was_not_reached_is_not_done_anew(world) -> None:
    here = world()
    command = dict(learning_rate=1e-4, justify="always", mode="mine", workers=1, guard=True)
    for percentile in range(1, 100):  # until a guard rolls the first round back
        config = make_config(here, command | {"rounds": 2, "percentile": percentile})
        if "round-2/select" not in expected(config):
            break
    pipeline.run(config)
    assert held(here, config) == {name: {value} for name, value in expected(config).items()}
    before = files_of(here.run)
    with pytest.raises(UserError, match="round-2/select: the rounds ended with round 1"):
        pipeline.run(config, redo="round-2/select")
    assert files_of(here.run) == before


def test_a_stage_in_several_rounds_must_be_named_in_full(world) -> None:
    here = world()
    command = dict(learning_rate=1e-4, percentile=50, justify="always", mode="mine", workers=1)
    config = make_config(here, command | {"rounds": 2})
    with pytest.raises(UserError, match="say which: round-1/select, round-2/select"):
        pipeline.run(config, redo="select")
    pipeline.run(config, until="warmup")


def test_files_that_are_gone_are_missed_only_where_they_are_needed(world) -> None:
    here = world()
    command = dict(
        learning_rate=1e-4, percentile=50, justify="always", mode="mine", workers=1, rounds=1
    )
    assert execute(here, command, None, None) == "done"
    (here.folder / "unlabeled.csv").unlink()
    assert execute(here, command, None, None) == "done", "ingest is done: it needs no files"
    before = files_of(here.run)
    assert "unlabeled.csv: no such file" in execute(here, command, "ingest", None)
    assert files_of(here.run) == before, "the inputs are checked before anything is dropped"
    # A corpus that comes back from somewhere else is the same; one that changed is refused.
    (here.folder / "unlabeled.csv").write_text("question,answer\nunlabeled,A\n")
    assert execute(here, command, None, None) == "done"
    (here.folder / "unlabeled.csv").write_text("question,answer\nanother,A\n")
    assert "its input data.unlabeled has changed" in execute(here, command, None, None)
