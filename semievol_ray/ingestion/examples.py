"""A row of the user's file to an example, or why it is none."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from semievol_ray.config import Columns
from semievol_ray.errors import UserError
from semievol_ray.sources import MISSING, Options, Row, cell_options, cell_text, find_cell
from semievol_ray.tasks import AnswerEvidence, AnswerForm, Task, by_own_mark, canonical_answer

_MOST_NAMED = 20
# One for all examples: `json.dumps` makes one each time.
_ENCODER = json.JSONEncoder(ensure_ascii=False)


class ExampleReader:
    """Reads the rows of one split, and remembers which columns it met."""

    def __init__(
        self, columns: Columns, task: Task, split: str, form: AnswerForm | None = None
    ) -> None:
        self.columns, self.task, self.split = columns, task, split
        self.form = form or AnswerForm()
        self.names = columns.names
        self.met: set[str] = set()

    def check_table(self, row: Row) -> None:
        """Raise UserError where the table that a row is from lacks a column of the config."""
        for key, name in self.names.items():
            found = row.columns or ()
            optional = (key == "answer" and self.split == "unlabeled") or (
                key == "weight" and self.split != "labeled"
            )
            if not optional and name not in found and name.partition(".")[0] not in found:
                raise UserError(
                    f"{row.file}: data.columns.{key}: no column {name!r}; it has {_listed(found)}"
                )

    def check_objects(self, file: str) -> None:
        """Raise UserError where a column was in none of a JSONL file's rows.

        An object may leave out what is null there, but a name that no row has is misspelt.
        """
        optional = {"context", "subject", *(["weight"] if self.split == "labeled" else [])}
        for key in self.names:
            if (key in optional or key.startswith("options.")) and self.names[key] not in self.met:
                raise UserError(
                    f"{file}: data.columns.{key}: no row has a field {self.names[key]!r}"
                )

    def weigh(self, row: Row, evidence: AnswerEvidence) -> None:
        """Add what a row's answer can be. Raises ValueError where it has none, or no options."""
        options = self._options(row)
        answer = self._text(row, "answer")
        if answer is not None:
            answer = by_own_mark(answer, options.texts, options.marks)
            evidence.add(answer, options.texts, f"{row.file}: row {row.number}")

    def example(self, row: Row, labels: Sequence[str] | None) -> dict[str, Any]:
        """The EXAMPLE row. Raises ValueError, saying why, where there is none in it."""
        question = self._text(row, "question")
        if question is None:
            raise ValueError("the question is empty")
        options = None
        if self.columns.options is not None:
            options = self._options(row)
        elif self.task.kind == "multiple_choice":
            raise ValueError("multiple choice needs options; set data.columns.options")
        example: dict[str, Any] = {
            "question": question,
            "context": self._text(row, "context", optional=True),
            "options": options.texts if options is not None else None,
            "subject": self._text(row, "subject", optional=True),
            "answer": self._answer(row, options, labels),
            "weight": self._weight(row),
        }
        if self.columns.id is None:
            example["example_id"] = content_id(example)
            return example
        example["example_id"] = self._text(row, "id")
        if example["example_id"] is None:
            raise ValueError("the id is empty")
        return example

    def _options(self, row: Row) -> Options:
        asked = self.columns.options
        if not isinstance(asked, tuple):
            return cell_options(self._cell(row, "options"), self.names["options"])
        keys = [f"options.{i}" for i in range(len(asked))]
        options = [self._text(row, key, optional=True) for key in keys]
        # A question of fewer options leaves the last columns empty.
        while options and options[-1] is None:
            options.pop()
        return cell_options(options, ", ".join(asked))

    def _answer(
        self, row: Row, options: Options | None, labels: Sequence[str] | None
    ) -> str | None:
        try:
            text = self._text(row, "answer")
            if text is None:
                raise ValueError("the answer is empty")
            if options is not None and self.task.is_closed and self.form.marks:
                text = by_own_mark(text, options.texts, options.marks, texts=self.form.texts)
            is_counted = self.task.kind == "numeric" and self.split != "unlabeled"
            if is_counted and any(character.isdigit() for character in text):
                self.task.check_number(text)
            return canonical_answer(
                text,
                kind=self.task.kind,
                options=options.texts if options is not None else None,
                labels=labels,
                form=self.form,
                words=self.task.word_answers,
            )
        except ValueError:
            if self.split == "unlabeled":
                return None
            raise

    def _weight(self, row: Row) -> float | None:
        if self.split != "labeled":
            return None
        text = self._text(row, "weight", optional=True)
        if text is None:
            return None
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise ValueError(f"{self.names['weight']}: {text!r} is no weight: a number from 0 on")
        return weight

    def _text(self, row: Row, key: str, optional: bool = False) -> str | None:
        if key not in self.names:
            return None
        # A context is often a list of passages.
        return cell_text(self._cell(row, key, optional), self.names[key], joined=key == "context")

    def _cell(self, row: Row, key: str, optional: bool = False) -> Any:
        name = self.names[key]
        found = find_cell(row.values, name)
        if found is not MISSING:
            self.met.add(name)
        elif optional:
            return None
        else:
            raise ValueError(f"no field {name!r}; it has {_listed(row.values)}")
        return found


def content_id(example: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what the question says: the id where the user gives none."""
    return f"{content_hash(example):016x}"


def content_hash(example: Mapping[str, Any]) -> int:
    """64 bits of what the question says: question, context and options."""
    parts = [example["question"], example.get("context"), example.get("options")]
    return text_hash(_ENCODER.encode(parts))


def text_hash(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    known = [str(name) for name in names]
    more = f", … ({len(known)} in all)" if len(known) > _MOST_NAMED else ""
    return ", ".join(known[:_MOST_NAMED]) + more if known else "none"
