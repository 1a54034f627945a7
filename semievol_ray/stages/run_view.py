"""A run as its stages read it: what is configured, what was ingested, which models there are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import (
    CLASSIFIERS,
    Config,
    ModelConfig,
    TrainingConfig,
    given,
    warm_number,
)
from semievol_ray.engines import resolve_engine
from semievol_ray.ray_session import most_gpus
from semievol_ray.retrieval import Asked, asked
from semievol_ray.selection import hash_ids
from semievol_ray.store import RunDirectory, StageLedger, layout
from semievol_ray.tasks import BETWEEN_TURNS, Task

# The stage that compares a round's model with the one before it.
GUARD = "guard"
# How classifiers are known that have not seen all labels, or more than these (known_answers.py).
HELD_OUT = " without the held-out labels"
AFTER_ROUND = " after round "


@dataclass(frozen=True)
class Ingested:
    """What ingest found in the user's files, as far as later stages need it."""

    rows: dict[str, int]
    labels: list[str] | None
    label_counts: dict[str, int] | None
    most_options: int
    # Where each split's longest example is: its shard and its row there.
    longest: dict[str, tuple[str, int]] | None
    # Size and time of each source file when it was read, and what it held.
    source_files: dict[str, Any] | None

    @classmethod
    def of(cls, statistics: Mapping[str, Any]) -> Ingested:
        """From the statistics of ingest's manifest."""
        found: dict[str, Any] = {f.name: statistics.get(f.name) for f in fields(cls)}
        return cls(**found)


@dataclass(frozen=True)
class ModelRef:
    """A model that answers: a base model, alone or under an adapter.

    What this run trained is a `layout.reference`: it means the same on every machine.
    """

    base: ModelConfig
    adapter: str | None = None

    @property
    def was_trained(self) -> bool:
        """Whether this run trained it."""
        return self.adapter is not None or layout.referred(self.base.name) is not None


@dataclass
class RunView:
    """A run as its stages read it: its config, its tables, its models."""

    config: Config
    run: RunDirectory
    ledger: StageLedger

    @cached_property
    def task(self) -> Task:
        """The task, with the labels that ingest found, and the day of a run's every prompt.

        That day is ingest's: a run that goes on after midnight asks what it asked before.
        """
        task = Task.from_config(self.config.task, self.ingested.labels)
        ingested_at = self.ledger.done("ingest").finished_at
        assert ingested_at is not None  # it is done
        return replace(task, day=task.day or ingested_at.partition("T")[0])

    @cached_property
    def ingested(self) -> Ingested:
        """What ingest found."""
        return Ingested.of(self.ledger.done("ingest").statistics)

    def folder(self, stage: str) -> str:
        """Where the files of a stage lie that is done or being done."""
        manifest = self.ledger.get(stage)
        assert manifest is not None, f"{stage} was never begun"
        return manifest.folder

    def identity(self, folder: str) -> str:
        """The fingerprint of the attempt that writes to a folder."""
        return next(m.fingerprint for m in self.ledger.all() if m.folder == folder)

    def shards(self, split: str) -> dict[str, int]:
        """Names of a split's example shards in order, with their rows."""
        done = self.ledger.done("ingest")
        folder = f"{done.folder}/{split}/"
        return {n: rows for n, rows in sorted(done.outputs.items()) if n.startswith(folder)}

    def neighbours(self, split: str) -> str | None:
        """The folder of each example's labelled neighbours; null where none are looked for."""
        return f"{self.folder('retrieve')}/{split}" if self.config.retrieval.k else None

    @cached_property
    def labeled(self) -> pa.Table:
        """All labelled examples: they are few."""
        return pa.concat_tables([self.run.read_table(name) for name in self.shards("labeled")])

    @cached_property
    def held_out(self) -> set[str]:
        """Ids of the labels that are held out to judge voters by.

        Once a model has been trained without them they are those, whatever is drawn today.
        """
        done = self.ledger.get("holdout")
        if done is None or done.state != "done":
            return held_out_ids(self.labeled, self.config.calibration.share)
        learnt = [name for name in done.outputs if "/examples/labeled/" in name]
        known = (self.run.read_table(name, ["example_id"])["example_id"] for name in learnt)
        return set(self.labeled["example_id"].to_pylist()).difference(
            *(k.to_pylist() for k in known)
        )

    @cached_property
    def turn_end(self) -> str | None:
        """What ends an answer in plain text behind others; null where a label holds it itself."""
        answers = self.labeled["answer"].to_pylist()
        return None if any(BETWEEN_TURNS in answer for answer in answers) else BETWEEN_TURNS

    def true_answers(self, shard: str, ids: pa.Array) -> pa.Array:
        """Answers that the user's file held of an unlabelled shard's rows; null where it held none.

        They are for measuring alone: no stage that trains reads them.
        """
        withheld = shard.replace("/unlabeled/", "/withheld/", 1)
        if withheld not in self.shards("withheld"):
            return pa.nulls(len(ids), pa.string())
        return looked_up(self.run.read_table(withheld), "answer", ids)

    def training_for(
        self, stage: Literal["warmup", "evolve"], examples: int | None = None
    ) -> TrainingConfig:
        """A stage's training, with nothing left to the labels any more.

        An evolution over so many `examples` takes the steps that the labels were found to need,
        and `tuning.first_epochs` at least.
        """
        asked, warm = self.config.training_for(stage), self.config.training_for("warmup")
        if not asked.is_tuned:
            return asked
        chosen = {"learning_rate": warm.learning_rate, "epochs": warm.epochs}
        if warm.is_tuned:
            chosen = self.ledger.done(layout.TUNE).statistics["chosen"]
        rate, epochs = asked.learning_rate, asked.epochs
        if rate == "auto":
            rate = given(chosen["learning_rate"])
        if epochs == "auto":
            epochs = given(chosen["epochs"])
            if stage == "evolve" and examples:
                fewest = min(epochs, self.config.tuning.first_epochs)
                steps = math.ceil(len(self.labeled) / warm.global_batch_size)
                own = math.ceil(examples / asked.global_batch_size)
                epochs = max(fewest, epochs * steps / own)
        least = min(asked.min_learning_rate, rate)
        changes = {"learning_rate": rate, "epochs": epochs, "min_learning_rate": least}
        return asked.model_copy(update=changes)

    # -- models ------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> ModelConfig:
        """The base model, its engine decided."""
        return resolve_engine(self.config.model)

    def model(self, name: str, round_number: int) -> ModelRef:
        """A collaborator's model: base, warm (of that round), one of `models`, or a path."""
        found = self._model(name, round_number)
        if found.base.is_classifier and self.config.iteration.refit:
            return self.refitted(name, round_number - 1)
        return found

    def _model(self, name: str, round_number: int) -> ModelRef:
        if name == "base":
            return ModelRef(self.base)
        if number := warm_number(name):
            return self.trained(labeller(round_number) if number == 1 else "warmup", number)
        if name in CLASSIFIERS and name not in self.config.models:
            options = self.config.retrieval.model_dump(exclude_none=True)
            if self.config.retrieval.embedder == "model":
                options.setdefault("model", self.base.name)
            classifier = ModelConfig(
                name=name,
                engine=name,
                engine_options=options,
                revision=self.base.revision,
                trust_remote_code=self.base.trust_remote_code,
            )
            return ModelRef(classifier)
        if name in self.config.models:
            return ModelRef(resolve_engine(self.config.models[name]))
        other = self.config.model.model_copy(update={"name": name, "revision": None})
        return ModelRef(resolve_engine(other))

    def refitted(self, name: str, round_number: int) -> ModelRef:
        """A classifier as it is after what a round selected; 0: it knows the labels alone."""
        found = self._model(name, 1)
        return _known_as(found, f"{AFTER_ROUND}{round_number}") if round_number else found

    def held_out_model(self, name: str) -> ModelRef:
        """A collaborator's model as it is without the labels that are held out."""
        if number := warm_number(name):
            return self.trained("holdout", number)
        model = self.model(name, 1)
        return _known_as(model, HELD_OUT) if model.base.is_classifier else model

    def trained(self, stage: str, number: int = 1) -> ModelRef:
        """What a training stage left in the run: an adapter, or a whole model.

        Of several warm-ups it is the one of a number.
        """
        name = layout.reference(f"{layout.of_warmup(self.folder(stage), number)}/model")
        on_labels = stage in ("warmup", "holdout")
        which: Literal["warmup", "evolve"] = "warmup" if on_labels else "evolve"
        if self.config.training_for(which).method == "lora":
            return ModelRef(self.base, name)
        return ModelRef(self.base.model_copy(update={"name": name, "revision": None}))

    def accepted_round(self, rounds: int) -> int:
        """The last of the rounds that are done whose model counts; 0: the warm model is as good."""
        return accepted_round(self.ledger, rounds, guarded=self.config.iteration.guard)

    @cached_property
    def has_gpus(self) -> bool:
        """Whether this run works on GPUs: where its cluster has some, or once had, or may scale to.

        Decided once and kept with the run: a spot node that is away, or a group that is scaled to
        zero, is waited for, and never turns a run on GPUs into one on CPUs.
        """
        known = self.run.read_mapping(layout.DEVICES) or {"gpus": False}
        if not known["gpus"] and most_gpus() > 0:
            known = {"gpus": True}
            self.run.write_json(layout.DEVICES, known)
        return bool(known["gpus"])


def _known_as(classifier: ModelRef, what_it_saw: str) -> ModelRef:
    """One that is fitted to other answers is another model, with replicas of its own."""
    name = classifier.base.name + what_it_saw
    return ModelRef(classifier.base.model_copy(update={"name": name}))


def looked_up(table: pa.Table, name: str, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column of a table with example ids, for these ids in their order; null where one lacks."""
    known = table["example_id"].combine_chunks()
    wanted = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return table[name].combine_chunks().take(pc.index_in(wanted, value_set=known))


def labeller(round_number: int) -> str:
    """The stage that trained the model which labels in a round.

    In a later round it is the one that the round before evolved: that fine-tuning was on just the
    labels this round starts from.
    """
    return "warmup" if round_number == 1 else layout.round_stage(round_number - 1, "evolve")


def what_rounds_left(config: Config, rounds: int) -> list[str]:
    """The stages that `accepted_round` looks at: who reads the model that counts, reads them."""
    names = ("evolve", GUARD) if config.iteration.guard else ("evolve",)
    return [layout.round_stage(n, name) for n in range(1, rounds + 1) for name in names]


def accepted_round(ledger: StageLedger, rounds: int, *, guarded: bool) -> int:
    """The last of a run's rounds that are done and that the guard, if there is one, let pass."""
    for number in range(1, rounds + 1):
        name = layout.round_stage(number, GUARD if guarded else "evolve")
        if not ledger.is_done(name):
            return number - 1
        if guarded and not ledger.done(name).statistics["kept"]:
            return number - 1
    return rounds


def held_out_ids(labeled: pa.Table, share: float) -> set[str]:
    """Ids of the labels that are held out: the same share of each class, drawn by hash."""
    return set(label_folds(labeled, share, 1)[0])


def labels_without(labeled: pa.Table, ids: Collection[str]) -> pa.Table:
    """The labelled examples but for those of some ids."""
    left_out = pa.array(sorted(ids), pa.string())
    return labeled.filter(pc.invert(pc.is_in(labeled["example_id"], left_out)))


def label_folds(labeled: pa.Table, share: float, count: int) -> list[frozenset[str]]:
    """Ids of labels in `count` folds: of each the same share of each class, drawn by hash.

    Labels that ask the same, with other answers, are in the same folds, whatever the shares come
    to: one is no judge of what has learnt another.
    """
    order = labeled.append_column("hash", hash_ids(labeled["example_id"])).sort_by(
        [("answer", "ascending"), ("hash", "ascending")]
    )
    first: dict[Asked, int] = {}
    places = [first.setdefault(question, i) for i, question in enumerate(asked(order))]
    ids = order["example_id"].to_pylist()

    def is_drawn(i: int) -> bool:
        return int((i + 1) * share) > int(i * share)

    return [
        frozenset(name for name, i in zip(ids, places, strict=True) if is_drawn(i + k))
        for k in range(count)
    ]


def selected_answers(run: RunDirectory, name: str) -> dict[str, str]:
    """Pseudo-answers of the examples that a selection shard keeps, by id."""
    table = run.read_table(name, ["example_id", "pseudo_answer", "selected"])
    table = table.filter(pc.field("selected"))
    ids, answers = table["example_id"].to_pylist(), table["pseudo_answer"].to_pylist()
    return dict(zip(ids, answers, strict=True))
