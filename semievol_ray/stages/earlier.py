"""The run that a run goes on with (`continues`): its model, its rows, what it trusted.

The model that it evolved labels the new rows; rows that it had are left out of them; and the next
evolution learns from its pseudo-answers beside the new ones. Nothing of it is done again, and
nothing in it is changed: what is needed of it later is copied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.ingestion import Block, KnownKeys
from semievol_ray.ray_session import shard_map
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import TASK_ROWS
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.run_view import RunView, labeller
from semievol_ray.stages.stage import Outcome, trained_settings
from semievol_ray.store import Manifest, RunDirectory, StageLedger, flatten, layout

# Where an ingest keeps the keys of rows that are not its own: the next run leaves them out too.
KNOWN = "known"
# Settings of the warm-up in which the two runs have to agree: the base model and the prompts.
ALIKE = ("model", "task", "code")
# A task of keys reads one column.
_SHARDS_A_TASK = 64


@dataclass(frozen=True)
class Earlier:
    """A finished run, and what another takes from it."""

    view: RunView

    @classmethod
    def of(cls, config: Config) -> Earlier:
        """The run that the config continues. Raises UserError where it has evolved no model."""
        assert config.continues is not None
        run = RunDirectory(config.continues)
        values = run.read_mapping(layout.CONFIG)
        if values is None:
            raise UserError(f"continues: {config.continues}: no run here")
        known = load_config(values | {"run_dir": config.continues})
        ledger = StageLedger(run)
        if not ledger.is_done(layout.round_stage(1, "evolve")):
            raise UserError(f"continues: {config.continues}: it has evolved no model yet")
        found = cls(RunView(known, run, ledger))
        if known.continues is not None and not found.has_evolved:
            # What its model has learnt from, the run before it knows.
            raise UserError(
                f"continues: {config.continues}: what it evolved was rolled back; continue the run "
                f"that it continues: {known.continues}"
            )
        return found

    @property
    def uri(self) -> str:
        """Where the run is."""
        return self.view.run.uri

    @cached_property
    def model_stage(self) -> str:
        """The stage that trained the model which counts."""
        rounds = self.view.config.iteration.rounds
        return labeller(self.view.accepted_round(rounds) + 1)

    @property
    def has_evolved(self) -> bool:
        """Whether that is an evolution: the guard may have let none pass."""
        return self.model_stage != "warmup"

    @property
    def settings(self) -> dict[str, Any]:
        """What a stage that takes something from the run depends on."""
        return {"continues": self.view.ledger.done(self.model_stage).fingerprint}

    @property
    def tuned(self) -> Manifest | None:
        """What its labels said of rate and epochs, where they were asked."""
        found = self.view.ledger.get(layout.TUNE)
        return found if found is not None and found.state == "done" else None

    # -- whether it fits ---------------------------------------------------------------------------

    def check_alike(self, config: Config) -> None:
        """Raise UserError where base model, prompts or `training.method` are not the run's."""
        trained = trained_settings(config, config.training_for("warmup"))
        now = flatten({name: trained[name] for name in ALIKE})
        before = self.view.ledger.done("warmup").settings
        for name in sorted(now.keys() | {key for key in before if key.split(".")[0] in ALIKE}):
            if now.get(name) != before.get(name):
                raise UserError(
                    f"continues: {self.uri}: its {name} is {before.get(name)!r}, this run's "
                    f"{now.get(name)!r}"
                )
        stage: Literal["warmup", "evolve"] = "evolve" if self.has_evolved else "warmup"
        theirs, ours = (c.training_for(s).method for c, s in
                        ((self.view.config, stage), (config, "warmup")))  # fmt: skip
        if theirs != ours:
            raise UserError(
                f"continues: {self.uri}: it trained with method: {theirs}, this run with {ours}"
            )

    def check_test(self, ids: Collection[str], *, ids_given: bool) -> None:
        """Raise UserError where it may have learnt from rows that this run tests on.

        An id that nobody gave is the content's hash, and tells. By given ids only the rows of its
        own test set are surely others, for it compared what they say with all that it read.
        """
        if ids_given:
            learnt = set(ids).difference(ids_of(self.view, "test"))
        else:
            trained = self.view.ledger.done(self.model_stage)
            learnt = set(ids).intersection(ids_in(self.view.run, trained.outputs))
        if learnt:
            raise UserError(
                f"continues: {self.uri}: it may have learnt from {len(learnt):,} rows of "
                f"data.test, the first {min(learnt)}; give its own test set, or leave them out"
            )

    # -- rows --------------------------------------------------------------------------------------

    def known_keys(self, context: Context, folder: str) -> list[Block]:
        """The keys of all rows that it and the runs before it had, as files of this run."""
        given = context.config.data.columns.id is not None
        shards, view = list(self.view.shards("unlabeled")), self.view
        if given != (view.config.data.columns.id is not None):
            raise UserError(f"continues: {self.uri}: data.columns.id is given in one run alone")
        tasks = [shards[i : i + _SHARDS_A_TASK] for i in range(0, len(shards), _SHARDS_A_TASK)]
        write = KnownKeys(view.run, context.run, f"{folder}/{KNOWN}", ids_given=given)
        found = list(shard_map(context.config.ray, len(tasks))(write, enumerate(tasks)))
        before: dict[str, int] = view.ledger.done("ingest").statistics.get("known_keys") or {}
        for number, (name, rows) in enumerate(before.items(), start=len(tasks)):
            block = Block(f"{folder}/{KNOWN}/{number:05d}", rows, 0)
            with view.run.filesystem.open_input_file(view.run.full_path(name)) as source:
                context.run.write_bytes(block.keys, source.read())
            found.append(block)
        return found

    # -- the model ---------------------------------------------------------------------------------

    def bring_model(self, context: Context, folder: str) -> Outcome:
        """Copy its model into `<folder>/model`."""
        trained = self.view.ledger.done(self.model_stage)
        source, run = f"{trained.folder}/model", context.run
        with run.new_folder(f"{folder}/model") as scratch:
            fs.copy_files(
                self.view.run.full_path(source),
                str(scratch),
                source_filesystem=self.view.run.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )
        context.progress.say("warmup", f"the model that {self.uri} evolved")
        return Outcome({}, trained.statistics, tuple(sorted(run.all_files(f"{folder}/model"))))

    # -- pseudo-answers ----------------------------------------------------------------------------

    def write_selected(self, context: Context, folder: str) -> list[tuple[str, int]]:
        """The pseudo-answers that its model learnt from, as training shards: (name, rows).

        Rows that are labels by now are left out: those whose prompt is a label's. Ids do not tell
        where each file counts its own rows.
        """
        trained = self.view.ledger.done(self.model_stage)
        theirs = f"{trained.folder}/examples/labeled/"
        sources = {n: rows for n, rows in trained.outputs.items() if not n.startswith(theirs)}
        labels, renderer = context.labeled.to_pylist(), make_renderer(context)
        write = _Rewriter(
            self.view.run,
            context.run,
            f"{folder}/examples/earlier",
            # A prompt may list the labels, of which there may be more by now.
            frozenset(
                renderer.render(task.messages(label))
                for task in (context.task, self.view.task)
                for label in labels
            ),
        )
        tasks = sum(sources.values()) // TASK_ROWS
        written = shard_map(context.config.ray, tasks)(write, enumerate(sorted(sources)))
        return [(name, rows) for name, rows in written if rows]


def settings_of(config: Config) -> dict[str, Any]:
    """What `continues` adds to a stage's settings; nothing where there is none."""
    return {} if config.continues is None else Earlier.of(config).settings


def ids_of(view: RunView, split: str) -> list[str]:
    """The ids of a split that is small."""
    return ids_in(view.run, view.shards(split))


def ids_in(run: RunDirectory, names: Iterable[str]) -> list[str]:
    """The example ids of some tables, in order."""
    tables = (run.read_table(name, ["example_id"]) for name in names)
    return [example_id for table in tables for example_id in table["example_id"].to_pylist()]


@dataclass(frozen=True)
class _Rewriter:
    """Copies a shard of training rows, but for those of some prompts. Picklable."""

    source: RunDirectory
    target: RunDirectory
    folder: str
    without: frozenset[str]

    def __call__(self, numbered: tuple[int, str]) -> tuple[str, int]:
        number, name = numbered
        table = self.source.read_table(name)
        left_out = pa.array(sorted(self.without), pa.string())
        table = table.filter(pc.invert(pc.is_in(table["prompt"], left_out)))
        target = f"{self.folder}/{layout.shard(number)}"
        if len(table):
            self.target.write_table(target, table)
        return target, len(table)
