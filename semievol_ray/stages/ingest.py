"""Ingest: the user's files to Parquet shards of examples with stable ids.

`ingestion/` has the three passes over the corpus; this puts them in order for each split. The
unlabelled set's answers, where the file has some, never enter the examples; they are put aside
under `withheld` for measuring pseudo-answers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol_ray.config import Config, Locations
from semievol_ray.errors import UserError
from semievol_ray.ingestion import (
    BUCKETS,
    Block,
    ExampleReader,
    Limit,
    Reader,
    Split,
    WrittenShards,
)
from semievol_ray.ray_session import shard_map
from semievol_ray.schema import QUARANTINE
from semievol_ray.sources import (
    Row,
    SourceFile,
    find_files,
    read_rows,
    refuse_overlap,
)
from semievol_ray.sources.planner import estimate_rows, plan_shard_rows
from semievol_ray.stages import tally
from semievol_ray.stages.asked_of_task import (
    check_labels,
    check_spellings,
    check_test_answers,
    labels_without_rows,
)
from semievol_ray.stages.context import Context
from semievol_ray.stages.earlier import KNOWN, Earlier, ids_in, settings_of
from semievol_ray.stages.run_view import Ingested
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import Manifest, digest
from semievol_ray.tasks import AnswerEvidence, AnswerForm, Task
from semievol_ray.tasks.presets import kind_of
from semievol_ray.tasks.prompts import plain_text
from semievol_ray.touches import of_result

QUARANTINED = "quarantine.parquet"

# What is between the files and the shards; it goes when the stage is done.
_BLOCKS = "blocks"
_HASHED_AT_ONCE = 8
# Repetitions beyond this are counted and not listed: a corpus may repeat itself millions of times.
_LISTED_REPETITIONS = 10_000
# Of a fleet whose size is decided where it works.
_USUAL_REPLICAS = 8

_SHOWN_PROMPTS, _SHOWN_CHARACTERS = 3, 2000


def sources(config: Config) -> dict[str, list[SourceFile]]:
    """The files of each split that the config names.

    Raises UserError for one that is missing, and for one inside the run directory.
    """
    found = {}
    for split, where in locations(config).items():
        found[split] = find_files(where, f"data.{split}")
        refuse_overlap(config.run_dir, f"data.{split}", where, found[split])
    return found


def locations(config: Config) -> dict[str, Locations]:
    """What the config says of each split."""
    splits = {"labeled": config.data.labeled, "unlabeled": config.data.unlabeled}
    return splits | ({"test": config.data.test} if config.data.test is not None else {})


def source_fingerprints(config: Config, found: Manifest | None) -> dict[str, str]:
    """What the user's files hold, split by split; a corpus that was moved is still the same.

    Once they are ingested they need not be there any more, and those that were not touched since
    are not read again.
    """
    known = {} if found is None else Ingested.of(found.statistics).source_files or {}
    fingerprints = {}
    for split, where in locations(config).items():
        key = f"data.{split}"
        try:
            files = find_files(where, key)
        except UserError:
            if found is None or found.state != "done":
                raise
            fingerprints[key] = found.inputs[key]
            continue
        refuse_overlap(config.run_dir, key, where, files)
        with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
            contents = pool.map(lambda file: file.fingerprint(known), files)
            names = (Path(file.path).name for file in files)
            fingerprints[key] = digest(list(zip(names, contents, strict=True)))
    return fingerprints


def shard_rows_of(config: Config, rows: int | None) -> int:
    """Rows of a shard for a corpus of so many (null: of unknown size)."""
    if config.data.shard_rows != "auto":
        return config.data.shard_rows
    most = config.generation.replicas.max
    # The machines of another day must not make other shards of the same files.
    return plan_shard_rows(rows, _USUAL_REPLICAS if most == "auto" else most)


def run(context: Context, _: int) -> Outcome:
    """Write `<split>/shard-*.parquet` and `quarantine.parquet` in the stage's folder.

    Raises UserError for a missing column, a repeated id, no usable labelled row, or more bad
    rows than `data.max_bad_rows`.
    """
    config, files = context.config, sources(context.config)
    task = Task.from_config(config.task)
    if task.labels is not None:
        check_spellings(task)
    earlier = None if config.continues is None else Earlier.of(config)
    if earlier is not None:  # before a corpus is read
        earlier.check_alike(config)
    shard_rows = shard_rows_of(config, estimate_rows(files["unlabeled"]))
    form, said = _answer_form(config, task, files)
    if said:
        context.progress.finish("ingest", said)
    ingestion = _Ingestion(context, task, shard_rows, form, said)
    # The test set first: what it holds may not be trained on. Then the labels, which name the
    # closed set of a label task.
    for split in ("test", "labeled", "unlabeled"):
        if split in files:
            ingestion.read(split, files[split])
        if split == "test" and earlier is not None:
            test = ids_in(context.run, ingestion.outputs)
            earlier.check_test(test, ids_given=config.data.columns.id is not None)
        if split == "labeled":  # before the corpus: what is wrong here, is wrong in all of it
            labels = sorted(ingestion.label_counts)
            if strange := ingestion.check_labels(Task.from_config(config.task, labels)):
                context.progress.finish("ingest", strange)
            for line in _first_prompts(Task.from_config(config.task, labels), ingestion.first()):
                context.progress.finish("ingest", line)
    outcome = ingestion.finish()
    states = {file.name: file.state() for members in files.values() for file in members}
    return replace(outcome, statistics=outcome.statistics | {"source_files": states})


def _settings(config: Config, _: int) -> dict[str, Any]:
    task = of_result(config.task)
    names = ("preset", "kind", "labels", "first_option_number", "word_answers")
    reading = {key: task[key] for key in names}
    if kind_of(config.task) == "numeric":
        # What a true answer is read by, since it is checked; as ever where nobody sets it.
        by = {"decimal_mark": ".", "answer_pattern": None}
        reading |= {key: task[key] for key, usual in by.items() if task[key] != usual}
    return {"data": of_result(config.data), "task": reading} | settings_of(config)


# Half-read files are read anew: a shard's rows depend on all the rows before it.
STAGE = Stage(
    "ingest",
    run,
    _settings,
    lambda config, number: [],
    writes=("*/shard-*.parquet", f"{_BLOCKS}/*", f"{KNOWN}/*", QUARANTINED),
    in_round=False,
    continues=False,
    works_with="nothing",
)


def _answer_form(
    config: Config, task: Task, files: dict[str, list[SourceFile]]
) -> tuple[AnswerForm, str]:
    """How the true answers name an option, and that in one line; read from all of them first."""
    columns, evidence = config.data.columns, AnswerEvidence()
    if columns.options is None or not task.is_closed:
        return AnswerForm(), ""
    for split in ("test", "labeled"):
        reader = ExampleReader(columns, task, split)
        for file in files.get(split, ()):
            for row in read_rows(file, reader.names.values()):
                # What is wrong with a row is said when it is read for good.
                with contextlib.suppress(ValueError):
                    if isinstance(row, Row):
                        reader.weigh(row, evidence)
    form = evidence.form(config.data.answers, task.first_option_number)
    return form, evidence.describe(form)


def _first_prompts(task: Task, examples: list[dict[str, Any]]) -> Iterator[str]:
    """Prompts for the user's eye: as the model gets them, but for its chat template."""
    for number, example in enumerate(examples, start=1):
        prompt = plain_text(task.messages(example))
        if len(prompt) > _SHOWN_CHARACTERS:
            half = _SHOWN_CHARACTERS // 2
            prompt = f"{prompt[:half]} […] {prompt[-half:]}"
        yield f"labelled prompt {number}, before the model's chat template"
        yield from (f"| {line}" for line in prompt.splitlines())
        yield f"its answer: {example['answer']}"


@dataclass
class _Ingestion:
    """One split after another, and what they came to."""

    context: Context
    task: Task
    shard_rows: int
    form: AnswerForm
    form_said: str
    outputs: dict[str, int] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    bad_rows_of: Counter[str] = field(default_factory=Counter)
    repeated: dict[str, int] = field(default_factory=dict)
    nearly_repeated: int = 0
    # Repetitions that may still be named.
    unlisted: int = _LISTED_REPETITIONS
    contaminated: dict[str, int] = field(default_factory=dict)
    already_labeled: int = 0
    label_counts: dict[str, int] = field(default_factory=dict)
    test_answers: dict[str, int] = field(default_factory=dict)
    most_options: int = 0
    # Where each split's longest example is: its shard and its row there.
    longest: dict[str, tuple[str, int]] = field(default_factory=dict)
    # What the test set and the labels say, to know it again.
    contents: dict[str, frozenset[int]] = field(default_factory=dict)
    # The blocks of the splits that were read.
    blocks: list[Block] = field(default_factory=list)
    # The keys of what the run that this one continues had, and how many rows were left out by them.
    known: list[Block] = field(default_factory=list)
    had_before: int = 0

    def __post_init__(self) -> None:
        self.config, self.store = self.context.config, self.context.run
        self.folder = self.context.folder("ingest")

    def read(self, split: str, files: list[SourceFile]) -> None:
        """Read one split into its shards."""
        if split == "unlabeled" and self.config.continues is not None:
            self.known = Earlier.of(self.config).known_keys(self.context, self.folder)
        reading = Split(
            self._reader(split),
            files,
            partial(shard_map, self.config.ray),
            earlier=self.blocks,
            bad_before=self.bad_rows_of.total(),
            unlisted=self.unlisted,
            known=self.known,
        )
        reading.read(partial(self.context.progress.advance, split))
        similar = split == "unlabeled" and self.config.data.near_duplicates is not None
        written = reading.write(self.folder, self.shard_rows, similar=similar)
        self.quarantine += reading.quarantine()
        said = tally.left_out(written.rows, reading)
        if not written.rows:
            raise UserError(f"data.{split}: {files[0].name}: no usable row; {said}")
        self.context.progress.say("ingest", said)
        self._take(split, reading, written)
        if split == "labeled" and (line := tally.lists(self.store, split, reading.blocks)):
            self.context.progress.say("ingest", line)
        if split != "unlabeled" and self.task.kind != "text":
            if self.task.kind == "label":
                self.context.progress.say("ingest", tally.answers(split, written.answers))
            ids_given = self.config.data.columns.id is not None
            if line := tally.contradictions(
                self.store, self.task, split, reading.blocks, ids_given=ids_given
            ):
                self.context.progress.say("ingest", line)

    def first(self) -> list[dict[str, Any]]:
        """The first labelled examples."""
        name = next(name for name in self.outputs if "/labeled/" in name)
        found: list[dict[str, Any]] = self.store.read_table(name)[:_SHOWN_PROMPTS].to_pylist()
        return found

    def check_labels(self, task: Task) -> str:
        """What is to be said of the labels; nothing where all is well.

        Raises UserError where they are none that this run could learn, or be measured by.
        """
        names = sorted(name for name in self.outputs if "/labeled/" in name)
        check_labels(self.config, task, pa.concat_tables(map(self.store.read_table, names)))
        if task.kind != "label":
            return ""
        if self.task.labels is not None:
            return labels_without_rows(self.task.labels, self.label_counts)
        return check_test_answers(self.label_counts, self.test_answers)

    def finish(self) -> Outcome:
        """Write the quarantine and say what was read."""
        name = f"{self.folder}/{QUARANTINED}"
        table = pa.Table.from_pylist(self.quarantine, schema=QUARANTINE)
        self.outputs[name] = self.store.write_table(name, table)
        self.store.delete_owned(f"{self.folder}/{_BLOCKS}", (), ("*",))
        labels = sorted(self.label_counts) if self.task.kind == "label" else None
        return Outcome(
            self.outputs,
            {
                "rows": self.rows,
                "shard_rows": self.shard_rows,
                "bad_rows": self.bad_rows_of.total(),
                "bad_rows_of": dict(self.bad_rows_of),
                "repeated_rows": self.repeated,
                **self._nearly(),
                "contaminated_rows": self.contaminated,
                "already_labeled_rows": self.already_labeled,
                "labels": list(self.task.labels) if self.task.labels else labels,
                "most_options": self.most_options,
                "longest": self.longest,
                "answers": self.form_said or None,
                "label_counts": self.label_counts if self.task.is_closed else None,
                **self._of_earlier(),
            },
            tuple(block.keys for block in self.known),
        )

    def _reader(self, split: str) -> Reader:
        labels = self.task.labels
        if labels is None and self.task.kind == "label" and split == "unlabeled":
            labels = tuple(self.label_counts)
        most = self.config.data.max_unlabeled_rows if split == "unlabeled" else None
        return Reader(
            run=self.store,
            folder=f"{self.folder}/{_BLOCKS}",
            columns=self.config.data.columns,
            task=self.task,
            split=split,
            form=self.form,
            labels=labels,
            max_bad_rows=self.config.data.max_bad_rows,
            # Neither is trained on, nor asked about again.
            test=self.contents.get("test", frozenset()),
            labeled=self.contents.get("labeled", frozenset()),
            limit=None if most is None else Limit(most, known=self._known_keys()),
            similarity=self.config.data.near_duplicates,
        )

    def _nearly(self) -> dict[str, int]:
        asked = self.config.data.near_duplicates is not None
        return {"nearly_repeated_rows": self.nearly_repeated} if asked else {}

    def _of_earlier(self) -> dict[str, Any]:
        if self.config.continues is None:
            return {}
        known = {block.keys: block.rows for block in self.known}
        return {"rows_had_before": self.had_before, "known_keys": known}

    def _known_keys(self) -> npt.NDArray[np.uint64]:
        batches = [self.store.read_batches(block.keys, range(BUCKETS)) for block in self.known]
        keys = [batch.column("key").to_numpy() for found in batches for batch in found]
        return np.sort(np.concatenate([np.empty(0, np.uint64), *keys]))

    def _take(self, split: str, reading: Split, written: WrittenShards) -> None:
        """What a split came to becomes part of what all came to."""
        self.blocks = [*self.blocks, *reading.blocks]
        self.unlisted = reading.unlisted
        self.outputs |= written.outputs
        self.rows[split] = written.rows
        self.repeated[split] = reading.repeated
        self.nearly_repeated += reading.nearly_repeated
        self.contaminated[split] = reading.contaminated
        self.already_labeled += reading.already_labeled
        self.had_before += reading.had_before
        if reading.bad_rows:
            self.bad_rows_of[split] = reading.bad_rows
        self.most_options = max(self.most_options, written.most_options)
        self.longest[split] = written.longest[:2]
        if split != "unlabeled":
            self.contents[split] = frozenset(written.contents)
        if split == "labeled":
            self.label_counts = dict(written.answers)
        if split == "test":
            self.test_answers = dict(written.answers)
