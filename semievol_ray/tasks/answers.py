"""The canonical spelling of a true answer, as the user's file has it.

Answers that models write are read by `Task.parse`; true ones come here, where a doubtful one is
refused instead of guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def option_letters(count: int) -> list[str]:
    """`A` … `Z`, `AA`, `AB`, … as in a spreadsheet's columns."""
    letters = []
    for index in range(count):
        name, rest = "", index + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            name = chr(ord("A") + digit) + name
        letters.append(name)
    return letters


def canonical_answer(
    raw: Any,
    *,
    kind: str,
    options: Sequence[str] | None,
    labels: Sequence[str] | None,
    first_option_number: int,
) -> str:
    """A true answer as the tables hold it: letter, label, number or text.

    Multiple choice takes a letter, an option's text, or the option's number (real files mix
    them); text that is itself one of the options wins over a number. Raises ValueError, saying
    what was expected, for an answer outside the options or labels.
    """
    text = " ".join(str(raw).split())
    if not text:
        raise ValueError("the answer is empty")
    if kind == "multiple_choice":
        return _option_letter(text, options or (), first_option_number)
    if kind == "label" and labels is not None:
        by_name = {label.casefold(): label for label in labels}
        if text.casefold() not in by_name:
            raise ValueError(f"answer {text!r} is not one of the {len(labels)} labels")
        return by_name[text.casefold()]
    if kind == "numeric" and not any(character.isdigit() for character in text):
        raise ValueError(f"answer {text!r} is not a number")
    return text


def _option_letter(text: str, options: Sequence[str], first_number: int) -> str:
    letters = option_letters(len(options))
    spelled = [" ".join(option.split()).casefold() for option in options]
    if spelled.count(text.casefold()) == 1:
        return letters[spelled.index(text.casefold())]
    letter = text.strip("()[]. ").upper()
    if letter in letters:
        return letter
    number = text.removesuffix(".0")
    if number.isdecimal() and 0 <= int(number) - first_number < len(options):
        return letters[int(number) - first_number]
    raise ValueError(f"answer {text!r} is not one of the {len(options)} options")
