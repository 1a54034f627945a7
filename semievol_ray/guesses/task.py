"""What kind of task the answers make, and what else they tell."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

from semievol_ray.config import Columns, TaskConfig
from semievol_ray.errors import UserError
from semievol_ray.guesses.answers import (
    BOX,
    box_of,
    is_number,
    number_of,
    of_scores,
    of_several_codes,
    of_several_labels,
    of_whole_answers,
)
from semievol_ray.guesses.files import Looked, Named
from semievol_ray.guesses.names import CLASSES, first_of
from semievol_ray.sources import Options
from semievol_ray.tasks import AnswerEvidence, Task, by_own_mark

_MOST_LABELS = 200
# Whole numbers are classes where there are so many rows of each: answers that are counted are not.
_ROWS_A_CODE, _ROWS_A_CLASS, _MOST_CODES = 10, 2, 20
# How GSM8K ends what leads to a number.
_WORKED = re.compile(r"####\s*\S*\d\S*\s*$")
_BOXED = "Answer the question step by step; put the final answer in \\boxed{}."
# A number whose points part thousands.
_POINTS = re.compile(r"^\D*\d{1,3}(\.\d{3})+(,\d+)?\D*$")
# A comma that does not part thousands.
_COMMA = re.compile(r"(?<![\d,])0+,\d|\d,(?!\d{3}(?!\d))\d")
_MOST_SHOWN = 5
# One comma among thousands of points is a slip.
_POINTS_A_COMMA = 5


@dataclass(frozen=True)
class Guess:
    """A task: its kind and why, its labels where they have to be named, and what is to be said."""

    kind: Literal["multiple_choice", "label", "numeric", "text"]
    why: str
    # Whole numbers that are classes.
    codes: tuple[str, ...] = ()
    # One spelling of each label, where the file has several.
    labels: tuple[str, ...] = ()
    # What the model is told where the answers are worked out, as GSM8K's and MATH's are.
    instruction: str = ""
    # What takes the answer out of what is written, and why that is needed.
    pattern: str = ""
    because: str = ""
    # A number whose fraction follows a comma.
    comma: str = ""
    notes: list[str] = field(default_factory=list)
    # What is to be written beside the kind as well, and whether it is that numbers are scores.
    doubt: str = ""
    scores: bool = False


def guess_task(labeled: Looked, columns: Mapping[str, Named]) -> Guess:
    """The task that the answers make, or the options where there are some."""
    if "options" in columns:
        several = columns["options"]
        is_one = isinstance(several, str)
        shown = repr(several) if is_one else ", ".join(map(repr, several))
        holds = f"column {shown} holds" if is_one else f"columns {shown} hold"
        return Guess("multiple_choice", f"the {holds} options", notes=_of_form(labeled, columns))
    name = str(columns["answer"])
    # A blank more is no other label.
    answers = [" ".join(text.split()) for text in labeled.texts(name) if text]
    counts = Counter(answers)
    codes = of_several_codes(answers)
    numbers = not codes and all(map(is_number, answers))
    why = f"{len(counts):,} different {{}} in {labeled.extent}"
    if numbers and not are_classes(answers, name):
        comma, notes = _decimal_comma(answers)
        points = [a.replace(".", "").replace(",", ".") for a in answers] if comma else answers
        doubt = of_scores([*map(number_of, points)])
        guess = Guess("numeric", "every answer is a number", comma=comma, notes=notes)
        return replace(guess, doubt=doubt, scores=bool(doubt))
    if numbers:
        guess = Guess("label", why.format("whole numbers"), codes=_sorted(counts))
        if first_of([name], CLASSES) is None:
            guess.notes.append(
                f"the whole numbers in {name!r} are taken for labels; if they are counted: "
                "task: {kind: numeric}"
            )
        return _labels(guess, counts, labeled)
    if 10 * sum(bool(_WORKED.search(answer)) for answer in answers) >= 9 * len(answers):
        told = "Answer the question step by step; end with #### and the number."
        return Guess("numeric", "every answer ends in #### and a number", instruction=told)
    are_few = len(counts) <= min(_MOST_LABELS, len(answers) // 2)
    boxes = [box for box in map(box_of, answers) if box]
    in_boxes = 10 * len(boxes) >= 9 * len(answers)
    if in_boxes and (all(map(is_number, boxes)) or not are_few):
        return _boxed(boxes, len(answers))
    if are_few:
        doubt = codes or of_several_labels(counts, often=False)
        return _labels(Guess("label", why.format("answers"), doubt=doubt), counts, labeled)
    doubt = codes or of_several_labels(counts, often=True) or of_whole_answers(answers)
    return Guess("text", why.format("answers"), doubt=doubt)


def _boxed(boxes: Sequence[str], rows: int) -> Guess:
    """Worked answers: of numbers where all boxes hold one, else of what the boxes hold as it is."""
    lacking = f"{rows - len(boxes):,} of {rows:,} answers have no \\boxed{{}}: leave those rows out"
    notes = [lacking] if len(boxes) < rows else []
    numbers = sum(map(is_number, boxes))
    if numbers == len(boxes):
        why = "the answers have a number in \\boxed{}"
        return Guess("numeric", why, instruction=_BOXED, notes=notes)
    because = (
        "The last \\boxed{} of a reply and of a true answer is what is compared, as it is written: "
        "\\frac12 and \\frac{1}{2} are one answer, 1/2 and 0.5 are others."
    )
    if 2 * numbers > len(boxes):
        because += (
            f" {numbers:,} of {len(boxes):,} boxes hold plain numbers; of these rows alone kind: "
            "numeric, without answer_pattern, reads the values."
        )
    why = "the answers have \\boxed{}, not always with a plain number"
    return Guess("text", why, instruction=_BOXED, pattern=BOX, because=because, notes=notes)


def check_file(
    file: Looked, setting: str, columns: Mapping[str, Named], guess: Guess, labeled: Looked
) -> list[str]:
    """What ingest would not take of another file, as lines; `setting` is `data.test`, say."""
    has_answers = setting == "data.test"
    answer, where = str(columns["answer"]), f"{setting}: {file.where}"
    needed = Columns.model_validate(dict(columns)).names
    notes = [
        f"{where}: no column {name!r}, which data.columns.{key} names; it has {file.listed}"
        for key, name in needed.items()
        if (has_answers or key != "answer") and not file.has(name)
    ]
    if not has_answers or not file.has(answer):
        return notes
    counts = Counter(" ".join(text.split()) for text in file.texts(answer) if text)
    if not counts:
        notes.append(f"{where}: no row has an answer in {answer!r}")
    elif guess.kind == "label" and labeled.is_whole:
        known = {" ".join(text.split()).casefold() for text in labeled.texts(answer)}
        strange = {name: count for name, count in counts.items() if name.casefold() not in known}
        if strange:
            shown = ", ".join(f"{name!r} ({n:,})" for name, n in [*strange.items()][:_MOST_SHOWN])
            notes.append(f"{where}: answers that are none of the labels: {shown}")
    return notes


def are_classes(answers: Sequence[str], column: str) -> bool:
    """Whether answers that are numbers are classes: whole, few, and many rows of each.

    In a column that is not called as one they number the classes, from 0 or from 1.
    """
    if not answers or not all(is_number(x) and number_of(x).is_integer() for x in answers):
        return False
    codes = {int(number_of(text)) for text in answers}
    if first_of([column], CLASSES):
        return len(codes) <= min(_MOST_LABELS, len(answers) // _ROWS_A_CLASS)
    few = len(codes) <= min(_MOST_CODES, len(answers) // _ROWS_A_CODE)
    return few and min(codes) in (0, 1) and max(codes) - min(codes) == len(codes) - 1


def names_options(answers: Sequence[str], options: Sequence[Options], *, bare: bool) -> bool:
    """Whether nearly all answers are a mark or the text of one of their row's options.

    `bare`: the columns are called a and b and no more, and may be flags: numbers beside numbers.
    """
    flags = (is_number(x) or x in ("true", "false") for row in options for x in row.texts)
    if bare and all(is_number(a) or a in ("true", "false") for a in answers if a) and all(flags):
        return False
    rows = zip(answers, options, strict=True)
    named = sum(any(_evidence([answer], [row]).counts.values()) for answer, row in rows)
    return named >= 0.9 * sum(map(bool, answers)) > 0


def _sorted(codes: Sequence[str] | Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(codes, key=number_of))


def _evidence(answers: Sequence[str], options: Sequence[Options]) -> AnswerEvidence:
    evidence = AnswerEvidence()
    for number, (answer, several) in enumerate(zip(answers, options, strict=True), start=1):
        if answer and len(several.texts) > 1:
            with contextlib.suppress(ValueError):
                answer = by_own_mark(answer, several.texts, several.marks)
                evidence.add(answer, several.texts, f"row {number}")
    return evidence


def _of_form(labeled: Looked, columns: Mapping[str, Named]) -> list[str]:
    """What ingest will ask of how the answers name their options."""
    answers = labeled.texts(str(columns["answer"]))
    try:
        _evidence(answers, labeled.options(columns["options"])).form("auto", None)
    except UserError as error:
        return [str(error)]
    return []


def _decimal_comma(answers: Sequence[str]) -> tuple[str, list[str]]:
    """An answer whose fraction follows a comma, where all have it so; or what is to be said."""
    commas = [answer for answer in answers if "," in answer]
    decimal = [a for a in commas if a.count(",") == 1 and _COMMA.search(a)]
    if not decimal:
        return "", []
    points = [a for a in answers if "." in a]
    alike = all(map(_POINTS.search, points)) and len(points) <= _POINTS_A_COMMA * len(decimal)
    if alike and 2 * len(decimal) > len(commas) == sum(a.count(",") for a in commas):
        return decimal[0], []
    said = f"{decimal[0]!r} seems to have a decimal comma, and others have none; if all should, set"
    return "", [f"{said} task.decimal_mark"]


def _labels(guess: Guess, counts: Counter[str], labeled: Looked) -> Guess:
    """A label task with what its labels' spellings ask for."""
    notes, labels = guess.notes, tuple[str, ...]()
    spelled: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        spelled.setdefault(name.casefold(), []).append(name)
    several = [names for names in spelled.values() if len(names) > 1]
    if several:
        shown = "; ".join(" and ".join(map(repr, names)) for names in several[:_MOST_SHOWN])
        if not labeled.is_whole:
            notes.append(f"labels that differ in case alone: {shown}; name all in task.labels")
            return replace(guess, notes=notes)
        labels = tuple(sorted(names[0] for names in spelled.values()))
        notes.append(f"labels that differ in case alone are read as one: {shown}")
    if "-1" in counts and guess.codes:
        notes.append(
            "'-1' is one of the labels; published data sets write it where there is none: leave "
            "those rows out"
        )
    if len(counts) == 1:
        notes.append(f"{labeled.extent} have the one answer {next(iter(counts))!r}")
    try:
        task = Task.from_config(TaskConfig(kind="label"), labels or sorted(counts))
        task.parse(pa.array([""]))
    except ValueError as error:
        notes.append(f"{error}; write them otherwise, or leave those rows out")
    return replace(guess, labels=labels, notes=notes)
