"""What a cell says, as text. What is no text is refused, never printed as Python would.

A `str()` of anything that a file may hold is how bytes become `b'..'`, a missing number `nan` and
a nested field a page of braces in a prompt.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MISSING: Final = object()
# Floats without a fraction up to here are whole numbers for certain.
_EXACT = 2.0**53


def find_cell(values: Mapping[str, Any], name: str) -> Any:
    """The cell of a column, or of a field inside one (`context.contexts`); MISSING without it.

    Fields of a list are counted: of `answers.text.0` the first, null where the list has none.
    """
    if name in values:
        return values[name]
    column, dot, field = name.partition(".")
    inner = values.get(column)
    if isinstance(inner, list | tuple):
        index = field.partition(".")[0]
        inner = {index: next(iter(inner[int(index) :]), None)} if index.isdecimal() else None
    return find_cell(inner, field) if dot and isinstance(inner, Mapping) else MISSING


def cell_text(value: Any, name: str, *, joined: bool = False) -> str | None:
    """A cell as text, stripped; null where it is empty, null or NaN.

    Whole floats lose their `.0` (a column of integers with a gap in it comes as floats); booleans
    are `true` and `false`. A list of texts is its lines where `joined`. Raises ValueError, naming
    the column, for anything that has no one reading.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{name}: bytes that are not UTF-8 text") from None
    if joined and isinstance(value, list | tuple):
        lines = [cell_text(line, name) for line in value]
        return "\n".join(line for line in lines if line) or None
    if isinstance(value, Mapping):
        # A list of texts has one reading where it is joined.
        lists = () if joined else (list, tuple)
        named = (
            f"{key}.0" if isinstance(inner, lists) else str(key) for key, inner in value.items()
        )
        fields = ", ".join(named) or "none"
        raise ValueError(f"{name}: a nested value; name one of its fields, as {name}.… ({fields})")
    text = value if isinstance(value, str) else _plain(value, name)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: half a character (a lone surrogate)") from None
    return text.strip() or None


def are_lists_of_texts(cells: Iterable[str]) -> bool:
    """Whether all texts of a column are JSON lists of texts, some with several: other names.

    One such cell may be an answer as it stands; a column of them is a list that was written so.
    """
    lengths = set()
    for cell in cells:
        if not cell.startswith("["):
            return False
        try:
            members = json.loads(cell)
        except (ValueError, RecursionError):
            return False
        if not all(isinstance(member, str) for member in members):
            return False
        lengths.add(len(members))
    return max(lengths, default=0) > 1


@dataclass(frozen=True)
class Options:
    """The texts of a row's options, in order, and what the row itself calls them, if anything."""

    texts: list[str]
    marks: tuple[str, ...] = ()


def cell_options(value: Any, name: str) -> Options:
    """Options of a list, a JSON list, or what hub datasets use.

    ARC has {"text": […], "label": […]}, CommonsenseQA [{"label": …, "text": …}, …] and MedQA
    {"A": …, "B": …}. Raises ValueError for fewer than two, for an option that is empty or no text,
    and for marks that are out of order.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name}: the options are not a JSON list") from None
    marks: Sequence[Any] = ()
    if isinstance(value, Mapping) and "text" in value:
        named = value.get("label")
        value, marks = value["text"], named if isinstance(named, list | tuple) else ()
    elif isinstance(value, Mapping):
        # Parquet gives every row the options of the longest: those beyond its own are null.
        marks = sorted(value, key=_mark_order)
        while marks and value[marks[-1]] is None:
            marks.pop()
        value = [value[mark] for mark in marks]
    elif _are_marked(value):
        value, marks = [o["text"] for o in value], [o.get("label") for o in value]
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise ValueError(f"{name}: expected a list of at least two options")
    called = [cell_text(mark, name) for mark in marks]
    if None in called:
        called = []
    if called and called != sorted(set(called), key=_mark_order):
        raise ValueError(f"{name}: the options' labels are not in order")
    if called and len(called) != len(value):
        raise ValueError(f"{name}: {len(value)} options and {len(called)} labels")
    texts = []
    for number, option in enumerate(value, start=1):
        text = cell_text(option, name)
        if text is None:
            raise ValueError(f"{name}: option {number} is empty")
        texts.append(text)
    return Options(texts, tuple(mark for mark in called if mark is not None))


def _plain(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if math.isinf(value):
            raise ValueError(f"{name}: an infinite number")
        return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else str(value)
    if isinstance(value, decimal.Decimal):
        return "" if value.is_nan() else f"{value:f}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        raise ValueError(f"{name}: a list, and not one text")
    raise ValueError(f"{name}: a value of the type {type(value).__name__}, and not a text")


def _are_marked(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(option, Mapping) and "text" in option for option in value)


def _mark_order(mark: Any) -> tuple[int, str]:
    return len(str(mark)), str(mark)
