"""Ingest: the user's files to Parquet shards of examples with stable ids.

Streaming: beyond one shard it keeps two 64-bit hashes of every example, to see repetitions.
The unlabelled set's answers, where the file has some, never enter the examples; they are put
aside under `data/withheld` for measuring pseudo-answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.schema import EXAMPLE, QUARANTINE
from semievol_ray.stages.context import Context
from semievol_ray.stages.planner import estimate_rows, plan_shard_rows
from semievol_ray.stages.sources import BadRow, Row, SourceFile, find_files, read_rows
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import Manifest, RunDirectory, digest, layout
from semievol_ray.tasks import Task, canonical_answer
from semievol_ray.touches import of_result

QUARANTINED = "quarantine.parquet"

_WITHHELD = pa.schema([("example_id", pa.string()), ("answer", pa.string())])


def sources(config: Config) -> dict[str, list[SourceFile]]:
    """The files of each split that the config names. Raises UserError for a missing one."""
    return {s: find_files(where, f"data.{s}") for s, where in locations(config).items()}


def locations(config: Config) -> dict[str, str]:
    """What the config says of each split."""
    splits = {"labeled": config.data.labeled, "unlabeled": config.data.unlabeled}
    return splits | ({"test": config.data.test} if config.data.test is not None else {})


def source_fingerprints(config: Config, found: Manifest | None) -> dict[str, str]:
    """What the user's files hold, split by split; a corpus that was moved is still the same.

    Once they are ingested they need not be there any more, and those that were not touched since
    are not read again.
    """
    known = {} if found is None else found.statistics.get("source_files", {})
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
        fingerprints[key] = digest([(Path(f.path).name, f.fingerprint(known)) for f in files])
    return fingerprints


def run(context: Context, _: int) -> Outcome:
    """Write `<split>/shard-*.parquet` and `quarantine.parquet` in the stage's folder.

    Raises UserError for a missing column, a repeated id, no usable labelled row, or more bad
    rows than `data.max_bad_rows`.
    """
    config, files = context.config, sources(context.config)
    task = Task.from_config(config.task)
    shard_rows = config.data.shard_rows
    if shard_rows == "auto":
        rows = estimate_rows(files["unlabeled"])
        shard_rows = plan_shard_rows(rows, config.generation.replicas.max)
    ingestion = _Ingestion(config, task, context.run, shard_rows, context.folder("ingest"))
    # The test set first: what it holds may not be trained on. Then the labels, which name the
    # closed set of a label task.
    for split in ("test", "labeled", "unlabeled"):
        if split in files:
            ingestion.read(split, files[split])
            context.progress.advance(split, ingestion.rows[split])
    outcome = ingestion.finish()
    states = {file.name: file.state() for members in files.values() for file in members}
    return replace(outcome, statistics=outcome.statistics | {"source_files": states})


def _settings(config: Config, _: int) -> dict[str, Any]:
    task = of_result(config.task)
    reading = {key: task[key] for key in ("preset", "kind", "labels", "first_option_number")}
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


@dataclass
class _Ingestion:
    config: Config
    task: Task
    run: RunDirectory
    shard_rows: int
    folder: str
    rows: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    bad_rows: int = 0
    repeated: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)
    already_labeled: int = 0
    label_counts: dict[str, int] = field(default_factory=dict)
    most_options: int = 0
    test_contents: set[int] = field(default_factory=set)
    labeled_contents: set[int] = field(default_factory=set)

    def read(self, split: str, files: list[SourceFile]) -> None:
        """Read one split into its shards."""
        self.rows[split] = self.repeated[split] = self.contaminated[split] = 0
        seen_ids: set[int] = set()
        seen_contents: set[int] = set()
        shard = _ShardWriter(self.run, self.folder, split, self.shard_rows, self.outputs)
        limit = self.config.data.max_unlabeled_rows if split == "unlabeled" else None
        for row, example in self._examples(split, files):
            content = _content_hash(example)
            if split != "test" and content in self.test_contents:
                self.contaminated[split] += 1
                continue
            if split == "unlabeled" and content in self.labeled_contents:
                self.already_labeled += 1
                continue
            given = self.config.data.columns.id is not None
            if given and _hash(example["example_id"]) in seen_ids:
                raise UserError(self._name_both(files, row, example["example_id"]))
            if content in seen_contents and not given:
                self.repeated[split] += 1
                self._reject(split, row, "repeats an earlier example", counts=False)
                continue
            seen_ids.add(_hash(example["example_id"]))
            seen_contents.add(content)
            if split == "labeled":
                answer = example["answer"]
                self.label_counts[answer] = self.label_counts.get(answer, 0) + 1
            self.most_options = max(self.most_options, len(example["options"] or ()))
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
                "repeated_rows": self.repeated,
                "contaminated_rows": self.contaminated,
                "already_labeled_rows": self.already_labeled,
                "labels": list(self.task.labels) if self.task.labels else labels,
                "most_options": self.most_options,
                "label_counts": self.label_counts if self.task.is_closed else None,
            },
        )

    def _examples(
        self, split: str, files: list[SourceFile]
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        for file in files:
            for row in read_rows(file):
                if isinstance(row, BadRow):
                    self._reject(split, row, row.reason)
                    continue
                if row.number == 1:
                    self._check_columns(split, row)
                try:
                    yield row, self._example(split, row)
                except ValueError as error:
                    self._reject(split, row, str(error))

    def _check_columns(self, split: str, row: Row) -> None:
        columns = self.config.data.columns
        wanted = {
            key: name
            for key, name in columns.model_dump().items()
            if name is not None and not (key == "answer" and split == "unlabeled")
        }
        for key, name in wanted.items():
            if name not in row.values:
                raise UserError(
                    f"{row.file}: data.columns.{key}: no column {name!r}; "
                    f"it has {', '.join(map(str, row.values))}"
                )

    def _example(self, split: str, row: Row) -> dict[str, Any]:
        columns, values = self.config.data.columns, row.values
        question = _text(values[columns.question])
        if question is None:
            raise ValueError("the question is empty")
        options = None if columns.options is None else _options(values[columns.options])
        if self.task.kind == "multiple_choice" and not options:
            raise ValueError("multiple choice needs options; set data.columns.options")
        example: dict[str, Any] = {
            "question": question,
            "context": None if columns.context is None else _text(values[columns.context]),
            "options": options,
            "subject": None if columns.subject is None else _text(values[columns.subject]),
            "answer": self._answer(split, values.get(columns.answer), options),
        }
        given = None if columns.id is None else _text(values[columns.id])
        if columns.id is not None and given is None:
            raise ValueError("the id is empty")
        example["example_id"] = given or content_id(example)
        return example

    def _answer(self, split: str, raw: Any, options: list[str] | None) -> str | None:
        labels = self.task.labels
        if labels is None and self.task.kind == "label" and split == "unlabeled":
            labels = tuple(self.label_counts)
        if raw is None or (split == "unlabeled" and not str(raw).strip()):
            if split == "unlabeled":
                return None
            raise ValueError("the answer is empty")
        try:
            return canonical_answer(
                raw,
                kind=self.task.kind,
                options=options,
                labels=labels,
                first_option_number=self.task.first_option_number,
            )
        except ValueError:
            if split == "unlabeled":
                return None
            raise

    def _reject(self, split: str, row: Row | BadRow, reason: str, counts: bool = True) -> None:
        self.quarantine.append(
            {"split": split, "file": row.file, "row": row.number, "reason": reason}
        )
        self.bad_rows += counts
        limit = self.config.data.max_bad_rows
        if self.bad_rows > limit:
            raise UserError(
                f"{row.file}: row {row.number}: {reason}; with it more than "
                f"data.max_bad_rows ({limit}) rows are unusable"
            )

    def _name_both(self, files: list[SourceFile], second: Row, example_id: str) -> str:
        column = self.config.data.columns.id
        for file in files:
            for row in read_rows(file):
                if isinstance(row, Row) and _text(row.values.get(column or "")) == example_id:
                    return (
                        f"{second.file}: row {second.number}: id {example_id!r} is already that "
                        f"of {row.file}, row {row.number}"
                    )
        return f"{second.file}: row {second.number}: id {example_id!r} occurs twice"


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
        self._write(f"{self.folder}/{self.split}/{name}", table.cast(EXAMPLE))
        self.buffer, self.shards = [], self.shards + 1

    def _write(self, name: str, table: pa.Table) -> None:
        self.outputs[name] = self.run.write_table(name, table)


def content_id(example: dict[str, Any]) -> str:
    """16 hexadecimal digits of what the question says: the id where the user gives none."""
    return f"{_content_hash(example):016x}"


def _content_hash(example: dict[str, Any]) -> int:
    parts = [example["question"], example.get("context"), example.get("options")]
    return _hash(json.dumps(parts, ensure_ascii=False))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).strip() or None


def _options(value: Any) -> list[str]:
    """Options as a list: of a list, a JSON list, or the mappings that hub datasets use."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError("the options are not a JSON list") from None
    if isinstance(value, dict):
        # ARC has {"text": [...], "label": [...]}; MedQA has {"A": ..., "B": ...}.
        value = value["text"] if "text" in value else [value[key] for key in sorted(value)]
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise ValueError("expected a list of at least two options")
    return [str(option).strip() for option in value]
