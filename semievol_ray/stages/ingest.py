"""Ingest: the user's files to Parquet shards of examples with stable ids.

Streaming: beyond one shard it keeps a 64-bit hash of every example, to see repetitions, and one
more of each given id.
The unlabelled set's answers, where the file has some, never enter the examples; they are put
aside under `withheld` for measuring pseudo-answers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray.config import Config, Locations
from semievol_ray.errors import UserError
from semievol_ray.schema import EXAMPLE, QUARANTINE
from semievol_ray.sources import (
    BadRow,
    Row,
    SourceFile,
    cell_text,
    find_cell,
    find_files,
    read_rows,
    refuse_overlap,
)
from semievol_ray.sources.planner import estimate_rows, plan_shard_rows
from semievol_ray.sources.rows import flat
from semievol_ray.stages.asked_of_task import check_asked
from semievol_ray.stages.context import Context
from semievol_ray.stages.examples import ExampleReader, content_hash, text_hash
from semievol_ray.stages.run_view import Ingested
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import Manifest, RunDirectory, digest, layout
from semievol_ray.tasks import AnswerEvidence, AnswerForm, Task
from semievol_ray.tasks.prompts import plain_text
from semievol_ray.touches import of_result

QUARANTINED = "quarantine.parquet"

# Repetitions beyond this are counted and not listed: a corpus may repeat itself millions of times.
# Of a fleet whose size is decided where it works.
_USUAL_REPLICAS = 8
# Of a fleet whose size is decided where it works.
_USUAL_REPLICAS = 8
_LISTED_REPETITIONS = 10_000

_SHOWN_PROMPTS, _SHOWN_CHARACTERS = 3, 2000

_WITHHELD = pa.schema([("example_id", pa.string()), ("answer", pa.string())])


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
        fingerprints[key] = digest([(Path(f.path).name, f.fingerprint(known)) for f in files])
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
    check_asked(config, task)
    shard_rows = shard_rows_of(config, estimate_rows(files["unlabeled"]))
    form, said = _answer_form(config, task, files)
    if said:
        context.progress.finish("ingest", said)
    ingestion = _Ingestion(
        config, task, context.run, shard_rows, context.folder("ingest"), form, said
    )
    # The test set first: what it holds may not be trained on. Then the labels, which name the
    # closed set of a label task.
    for split in ("test", "labeled", "unlabeled"):
        if split in files:
            ingestion.read(split, files[split])
            context.progress.advance(split, ingestion.rows[split])
        if split == "labeled":  # before the corpus: what is wrong here, is wrong in all of it
            labels = sorted(ingestion.label_counts)
            for line in _first_prompts(Task.from_config(config.task, labels), ingestion.first):
                context.progress.finish("ingest", line)
    outcome = ingestion.finish()
    states = {file.name: file.state() for members in files.values() for file in members}
    return replace(outcome, statistics=outcome.statistics | {"source_files": states})


def _settings(config: Config, _: int) -> dict[str, Any]:
    task = of_result(config.task)
    names = ("preset", "kind", "labels", "first_option_number", "word_answers")
    reading = {key: task[key] for key in names}
    return {"data": of_result(config.data), "task": reading}


# Half-read files are read anew: a shard's rows depend on all the rows before it.
STAGE = Stage(
    "ingest",
    run,
    _settings,
    lambda config, number: [],
    writes=("*/shard-*.parquet", QUARANTINED),
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
    config: Config
    task: Task
    run: RunDirectory
    shard_rows: int
    folder: str
    form: AnswerForm
    form_said: str
    rows: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    bad_rows: int = 0
    bad_rows_of: Counter[str] = field(default_factory=Counter)
    repeated: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)
    already_labeled: int = 0
    label_counts: dict[str, int] = field(default_factory=dict)
    most_options: int = 0
    # Where each split's longest example is: its shard, its row there, its size.
    longest: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list)
    test_contents: set[int] = field(default_factory=set)
    labeled_contents: set[int] = field(default_factory=set)

    def read(self, split: str, files: list[SourceFile]) -> None:
        """Read one split into its shards."""
        self.rows[split] = self.repeated[split] = self.contaminated[split] = 0
        # Without given ids, an id is a content's hash: one set is enough.
        seen_ids: set[int] = set()
        seen_contents: set[int] = set()
        shard = _ShardWriter(self.run, self.folder, split, self.shard_rows, self.outputs)
        limit = self.config.data.max_unlabeled_rows if split == "unlabeled" else None
        for row, example in self._examples(split, files):
            content = content_hash(example)
            if split != "test" and content in self.test_contents:
                self.contaminated[split] += 1
                continue
            if split == "unlabeled" and content in self.labeled_contents:
                self.already_labeled += 1
                continue
            given = self.config.data.columns.id is not None
            if given and text_hash(example["example_id"]) in seen_ids:
                raise UserError(self._name_both(files, row, example["example_id"]))
            if content in seen_contents and not given:
                self._repeats(split, row)
                continue
            if given:
                seen_ids.add(text_hash(example["example_id"]))
            seen_contents.add(content)
            if split == "labeled":
                answer = example["answer"]
                self.label_counts[answer] = self.label_counts.get(answer, 0) + 1
                if len(self.first) < _SHOWN_PROMPTS:
                    self.first.append(example)
            self.most_options = max(self.most_options, len(example["options"] or ()))
            size = _text_bytes(example)
            if size > self.longest.get(split, ("", 0, -1))[2]:
                self.longest[split] = (*shard.next_row, size)
            shard.add(example)
            self.rows[split] += 1
            if self.rows[split] == limit:
                break
        shard.close()
        if split == "test":
            self.test_contents = seen_contents
        elif split == "labeled":
            self.labeled_contents = seen_contents
        if not self.rows[split]:
            first = next((q for q in self.quarantine if q["split"] == split), None)
            because = f"; first: row {first['row']}: {first['reason']}" if first else ""
            raise UserError(f"data.{split}: {files[0].name}: no usable row{because}")

    def finish(self) -> Outcome:
        """Write the quarantine and say what was read."""
        name = f"{self.folder}/{QUARANTINED}"
        table = pa.Table.from_pylist(self.quarantine, schema=QUARANTINE)
        self.outputs[name] = self.run.write_table(name, table)
        labels = sorted(self.label_counts) if self.task.kind == "label" else None
        return Outcome(
            self.outputs,
            {
                "rows": self.rows,
                "shard_rows": self.shard_rows,
                "bad_rows": self.bad_rows,
                "bad_rows_of": dict(self.bad_rows_of),
                "repeated_rows": self.repeated,
                "contaminated_rows": self.contaminated,
                "already_labeled_rows": self.already_labeled,
                "labels": list(self.task.labels) if self.task.labels else labels,
                "most_options": self.most_options,
                "longest": {split: where[:2] for split, where in self.longest.items()},
                "answers": self.form_said or None,
                "label_counts": self.label_counts if self.task.is_closed else None,
            },
        )

    def _examples(
        self, split: str, files: list[SourceFile]
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        reader = ExampleReader(self.config.data.columns, self.task, split, self.form)
        labels = self.task.labels
        if labels is None and self.task.kind == "label" and split == "unlabeled":
            labels = tuple(self.label_counts)
        for file in files:
            row = None
            for found in read_rows(file, reader.names.values()):
                if isinstance(found, BadRow):
                    self._reject(split, found, found.reason)
                    continue
                if row is None and found.columns is not None:
                    reader.check_table(found)
                row = found
                try:
                    yield row, reader.example(row, labels)
                except ValueError as error:
                    self._reject(split, row, str(error))
            if row is not None and row.columns is None:
                reader.check_objects(row.file)

    def _reject(self, split: str, row: Row | BadRow, reason: str) -> None:
        self._put_aside(split, row, reason)
        rows = row.rows if isinstance(row, BadRow) else 1
        self.bad_rows += rows
        self.bad_rows_of[split] += rows
        limit = self.config.data.max_bad_rows
        if self.bad_rows > limit:
            raise UserError(
                f"{row.file}: row {row.number}: {flat(reason)}; with it more than "
                f"data.max_bad_rows ({limit}) rows are unusable"
            )

    def _repeats(self, split: str, row: Row) -> None:
        self.repeated[split] += 1
        if sum(self.repeated.values()) <= _LISTED_REPETITIONS:
            self._put_aside(split, row, "repeats an earlier example")

    def _put_aside(self, split: str, row: Row | BadRow, reason: str) -> None:
        self.quarantine.append(
            {"split": split, "file": row.file, "row": row.number, "reason": flat(reason)}
        )

    def _name_both(self, files: list[SourceFile], second: Row, example_id: str) -> str:
        column = self.config.data.columns.id or ""
        for file in files:
            for row in read_rows(file, [column]):
                if isinstance(row, Row) and _is_id(find_cell(row.values, column), example_id):
                    return (
                        f"{second.file}: row {second.number}: id {example_id!r} is already that "
                        f"of {row.file}, row {row.number}"
                    )
        return f"{second.file}: row {second.number}: id {example_id!r} occurs twice"


def _text_bytes(example: dict[str, Any]) -> int:
    """About what an example adds to a prompt; an option has a letter and a line of its own."""
    texts = (example[name] for name in ("question", "context", "subject", "answer"))
    options = example["options"] or ()
    return sum(len(text.encode()) for text in (*texts, *options) if text) + 8 * len(options)


def _is_id(cell: Any, example_id: str) -> bool:
    try:
        return cell_text(cell, "id") == example_id
    except ValueError:
        return False


class _ShardWriter:
    def __init__(
        self,
        run: RunDirectory,
        folder: str,
        split: str,
        shard_rows: int,
        outputs: dict[str, int],
    ) -> None:
        self.run, self.folder, self.split = run, folder, split
        self.shard_rows, self.outputs = shard_rows, outputs
        self.buffer: list[dict[str, Any]] = []
        self.shards = 0

    @property
    def next_row(self) -> tuple[str, int]:
        """Where the next example goes: its shard's name, and its row there."""
        return f"{self.folder}/{self.split}/{layout.shard(self.shards)}", len(self.buffer)

    def add(self, example: dict[str, Any]) -> None:
        self.buffer.append(example)
        if len(self.buffer) == self.shard_rows:
            self._flush()

    def close(self) -> None:
        if self.buffer:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self.buffer, schema=EXAMPLE)
        name = layout.shard(self.shards)
        if self.split == "unlabeled":
            withheld = table.select(_WITHHELD.names)
            if withheld["answer"].null_count < len(withheld):
                self._write(f"{self.folder}/withheld/{name}", withheld)
            answers = pa.nulls(len(table), pa.string())
            table = table.set_column(table.schema.get_field_index("answer"), "answer", answers)
        self._write(self.next_row[0], table.cast(EXAMPLE))
        self.buffer, self.shards = [], self.shards + 1

    def _write(self, name: str, table: pa.Table) -> None:
        self.outputs[name] = self.run.write_table(name, table)
