"""One task: its prompts, its parser, its scorer. Parsing and scoring are the Rust core's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import TaskConfig
from semievol_ray.engines import Message
from semievol_ray.errors import UserError
from semievol_ray.selection import (
    ambiguous_numbers,
    answers_equal,
    extract_answers,
    written_answers,
)
from semievol_ray.tasks.forms import option_letters
from semievol_ray.tasks.presets import KIND_DEFAULTS, TASK_PRESETS

# An answer that is longer may say how it was come by.
_SHORT = 40
# What makes a number a part of the one before it: 1/2, 10:30, 1 000.
_JOINED = re.compile(r"\d(\s*[/×*+–-]\s*|:|\s+)$")
# No group of thousands begins with a nought.
_NOUGHT = re.compile(r"(?<![\d,])0+,\d")

Kind = Literal["multiple_choice", "label", "numeric", "text"]


@dataclass(frozen=True)
class Task:
    """A resolved task. Picklable: replicas get it as it is.

    `example` below is a row of the EXAMPLE schema as a mapping.
    """

    kind: Kind
    instruction: str
    question_template: str
    answer_pattern: str | None = None
    labels: tuple[str, ...] | None = None
    relative_tolerance: float = 0.0
    first_option_number: int | None = None
    decimal_mark: str = "."
    word_answers: bool = False
    use_chat_template: str = "auto"
    day: str | None = None

    @classmethod
    def from_config(cls, config: TaskConfig, labels: Sequence[str] | None = None) -> Task:
        """The task of a config; `labels` are those found in the labelled set.

        Raises UserError for an unknown preset, a missing kind or a broken template.
        """
        values = config.model_dump(exclude={"preset"}, exclude_none=True)
        if config.preset is not None:
            if config.preset not in TASK_PRESETS:
                known = ", ".join(TASK_PRESETS)
                raise UserError(f"task.preset: unknown preset {config.preset!r}; known: {known}")
            values = TASK_PRESETS[config.preset] | values
        if "kind" not in values:
            kinds = ", ".join(KIND_DEFAULTS)
            raise UserError(f"task.kind: say what kind of task this is ({kinds}), or give a preset")
        values = KIND_DEFAULTS[values["kind"]] | values
        if values["kind"] == "label" and labels is not None:
            values.setdefault("labels", tuple(labels))
        task = cls(**values)
        try:
            _ENVIRONMENT.parse(task.question_template)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"task.question_template: {error.message}") from None
        return task

    @property
    def is_closed(self) -> bool:
        """Whether the answer is one of a list that is known beforehand."""
        return self.kind in ("multiple_choice", "label")

    @cached_property
    def _template(self) -> jinja2.Template:
        return _ENVIRONMENT.from_string(self.question_template)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_template"}

    # -- prompts -----------------------------------------------------------------------------------

    def question(self, example: Mapping[str, Any]) -> str:
        """The question as the model reads it. Raises UserError where the template cannot."""
        options = example.get("options") or []
        values = {"context": None, "subject": None, **example, "options": options}
        values |= {"letters": option_letters(len(options)), "labels": self.labels or ()}
        try:
            return self._template.render(values)
        except jinja2.UndefinedError as error:
            raise UserError(
                f"task.question_template: {error.message}; there are {', '.join(sorted(values))}; "
                "data.columns says which columns these are"
            ) from None

    def messages(
        self, example: Mapping[str, Any], demonstrations: Sequence[Mapping[str, Any]] = ()
    ) -> list[Message]:
        """Instruction, demonstrations (farthest first, so that the nearest is last), question."""
        turns: list[Message] = []
        for shown in reversed(demonstrations):
            turns.append({"role": "user", "content": self.question(shown)})
            turns.append({"role": "assistant", "content": shown["answer"]})
        turns.append({"role": "user", "content": self.question(example)})
        return self._with_preamble(self.instruction, turns)

    def justify_messages(
        self, example: Mapping[str, Any], proposals: Sequence[str]
    ) -> list[Message]:
        """The question after the answers that the collaborators gave.

        The proposals stand before the question, so that the prompt ends just as it did in the
        warm-up; a model that has only learnt the task still knows where it is.
        """
        proposed = f"Proposed answers: {'; '.join(proposals)}. They may be wrong."
        preamble = f"{self.instruction}\n{proposed}" if self.instruction else proposed
        return self._with_preamble(preamble, [{"role": "user", "content": self.question(example)}])

    @staticmethod
    def _with_preamble(preamble: str, turns: list[Message]) -> list[Message]:
        # In the first user turn, not a system turn: some chat templates refuse the latter.
        if not preamble:
            return turns
        first: Message = {"role": "user", "content": f"{preamble}\n\n{turns[0]['content']}"}
        return [first, *turns[1:]]

    def candidates(self, example: Mapping[str, Any]) -> list[str]:
        """The answers of a closed task, in the order of the options. ValueError for an open one."""
        if self.kind == "multiple_choice":
            return option_letters(len(example["options"]))
        if self.kind == "label" and self.labels is not None:
            return list(self.labels)
        raise ValueError(f"a {self.kind} task has no closed list of answers")

    def classes(self, example: Mapping[str, Any]) -> tuple[str, ...]:
        """What the answers to a closed task are called, in the order of `candidates`.

        Letters mean nothing from one example to the next: an option goes by its text.
        """
        names = example["options"] if self.kind == "multiple_choice" else self.labels or ()
        return tuple(" ".join(name.split()).casefold() for name in names)

    def class_of(self, example: Mapping[str, Any]) -> str:
        """What the true answer of a closed task is called."""
        return self.classes(example)[self.candidates(example).index(example["answer"])]

    # -- answers -----------------------------------------------------------------------------------

    def parse(self, texts: pa.Array, options: pa.Array | None = None) -> pa.Array:
        """Canonical answers of the texts a model wrote; null where there is none.

        `options`: list<string> of each row, for multiple choice.
        """
        return extract_answers(
            texts,
            kind=self.kind,
            pattern=self.answer_pattern,
            options=options if self.kind == "multiple_choice" else None,
            labels=list(self.labels) if self.labels else None,
            decimal_mark=self.decimal_mark,
        )

    def check_number(self, text: str) -> None:
        """Raise ValueError for a true answer of a numeric task that no model's could equal.

        One short line that holds another number beside the one that is read ("1/2", "2020-01-05")
        says something else than that number.
        """
        gold = pa.array([text])
        found = self.parse(gold)
        if not found[0].is_valid:
            raise ValueError(
                f"answer {text!r} is not read as a number where task.decimal_mark is "
                f"{self.decimal_mark!r}; write it as one number"
            )
        if self.answer_pattern is not None or len(text) > _SHORT:
            return
        if any(mark in text for mark in ("####", "=", "\\boxed", "\n")):
            return
        read, rest = found[0].as_py(), text
        # Whatever else is a number must be this one, said again: "-3.2 ( 3.2 )".
        while (other := self.parse(pa.array([rest])))[0].is_valid:
            (number,) = self.written(pa.array([rest]), other).to_pylist()
            before, here, after = rest.rpartition(number)
            if not here:
                break
            joined = _JOINED.search(before) and not number.startswith("(")
            if joined or other[0].as_py() != read:
                raise ValueError(f"answer {text!r} is read as {read}; write it as one number")
            if self.decimal_mark == "." and _NOUGHT.search(number):
                raise ValueError(
                    f"answer {text!r} is read as {read}; if its comma is a decimal mark, set "
                    "task.decimal_mark"
                )
            rest = f"{before} {after}"

    def written(self, texts: pa.Array, answers: pa.Array) -> pa.Array:
        """The answers that `parse` found as the texts have them: what a model is trained on.

        A closed task has them in one spelling; null where `answers` is.
        """
        if self.is_closed:
            return answers
        found = written_answers(
            texts, kind=self.kind, pattern=self.answer_pattern, decimal_mark=self.decimal_mark
        )
        return pc.if_else(answers.is_valid(), found, pa.scalar(None, pa.string()))

    def ambiguous(self, texts: pa.Array) -> int:
        """How many texts hold a number that can be read in two ways, and so have no answer."""
        if self.kind != "numeric":
            return 0
        found = ambiguous_numbers(
            texts, pattern=self.answer_pattern, decimal_mark=self.decimal_mark
        )
        return found.true_count

    def correct(self, answers: pa.Array, gold: pa.Array) -> pa.Array:
        """Whether each answer counts as its gold one; a null answer never does."""
        if self.kind in ("numeric", "text"):
            gold = self.parse(gold)
        return answers_equal(
            answers, gold, kind=self.kind, relative_tolerance=self.relative_tolerance
        )


# A user's template is data: it may not reach into Python.
_ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True
)
