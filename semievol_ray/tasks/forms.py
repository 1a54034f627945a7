"""How a column writes which option is right: by letter, by number, or by the option's text.

One form holds for a whole column. Where options are numbers themselves, an answer `2` may be a text
and a number at once; taken row by row, such answers would be read by a convention that the rest of
the column contradicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from semievol_ray.errors import UserError

Asked = Literal["auto", "mark", "text"]


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


def by_own_mark(
    answer: str, options: Sequence[str], marks: Sequence[str], *, texts: bool = True
) -> str:
    """An answer by a mark of the row's own (`F G H J`, `A C D`, `2 3 4`) as that option's letter.

    As it is where the row's marks are the usual ones, or neither letters nor numbers, or the answer
    is none; `texts`: an answer may be an option's text, too, and stays one. Raises ValueError for a
    mark that the row has not (`B` of `A C D` is not the second), and for an answer that is one
    option's mark and another one's text.
    """
    letters = option_letters(len(options))
    usual = [letters, *([str(first + i) for i in range(len(options))] for first in (0, 1))]
    called = [_bare(mark) for mark in marks]
    number = all(mark.isdecimal() for mark in called)
    letter = all(len(mark) == 1 and mark.isalpha() for mark in called)
    if not called or called in usual or not (number or letter):
        return answer
    wanted = _bare(answer)
    wanted = wanted.removesuffix(".0") if number else wanted
    by_text = _by_text(" ".join(answer.split()), options) if texts else None
    if wanted in called:
        own = letters[called.index(wanted)]
        if by_text not in (None, own):
            raise ValueError(f"answer {answer!r} is the mark of one option and the text of another")
        return answer if by_text else own
    if by_text is None and (wanted.isdecimal() if number else wanted in letters):
        raise ValueError(f"answer {answer!r} is none of the row's options {', '.join(marks)}")
    return answer


def _bare(mark: str) -> str:
    return mark.strip("()[]. :").upper()


@dataclass(frozen=True)
class AnswerForm:
    """What an answer may be: a mark (letter, or number from `first_number`), a text, or either."""

    marks: bool = True
    texts: bool = True
    first_number: int | None = None

    def letter(self, answer: str, options: Sequence[str]) -> str:
        """The letter of the option that an answer names. Raises ValueError where it names none."""
        found = set()
        if self.texts:
            found.add(_by_text(answer, options))
        if self.marks:
            found.add(_by_letter(answer, options))
            if self.first_number is not None:
                found.add(_by_number(answer, options, self.first_number))
        found.discard(None)
        if len(found) > 1:
            raise ValueError(f"answer {answer!r} is the text of one option and the mark of another")
        letter = next(iter(found), None)
        if letter is None:
            raise ValueError(f"answer {answer!r} is not one of the {len(options)} options")
        return letter


@dataclass
class AnswerEvidence:
    """What the answers of a column can be; `add` every row, then ask for the form."""

    counts: Counter[str] = field(default_factory=Counter)
    # The first place of each kind of evidence.
    places: dict[str, str] = field(default_factory=dict)

    def add(self, answer: str, options: Sequence[str], place: str) -> None:
        """One row's answer; `place` is how a message names the row."""
        answer = " ".join(answer.split())
        by_text, by_letter = _by_text(answer, options), _by_letter(answer, options)
        by_number = [_by_number(answer, options, first) for first in (0, 1)]
        is_number = any(by_number)
        mark = by_letter is not None or is_number
        for kind, is_so in (("letters", by_letter is not None), ("numbers", is_number),
                            ("texts", by_text is not None)):  # fmt: skip
            self.counts[kind] += is_so
        signs = {
            "only a mark": mark and by_text is None,
            "only a text": by_text is not None and not mark,
            "nought": is_number and by_number[1] is None,
            "last": is_number and by_number[0] is None,
            "both, letter": by_text is not None and by_letter not in (None, by_text),
            "both, 0": None not in (by_text, by_number[0]) and by_number[0] != by_text,
            "both, 1": None not in (by_text, by_number[1]) and by_number[1] != by_text,
        }
        for sign, is_so in signs.items():
            if is_so:
                self.places.setdefault(sign, f"{place}: {answer!r} of {len(options)} options")

    def form(self, asked: Asked, given_number: int | None) -> AnswerForm:
        """The one form of the column. Raises UserError, naming rows, where there is none.

        `asked` is the user's word for it, `given_number` that of the config or the preset for what
        the first option is called as a number.
        """
        marks, texts = "only a mark" in self.places, "only a text" in self.places
        if asked != "auto":
            marks, texts = asked == "mark", asked == "text"
        elif not marks and not texts:
            marks = texts = True
        number = self._first_number(given_number) if marks else None
        clash = self.places.get("both, letter") or self.places.get(f"both, {number}")
        if marks and texts and clash:
            pure = [self.places[s] for s in ("only a mark", "only a text") if s in self.places]
            raise UserError(
                f"{clash}: the text of one option and the mark of another, and the column does not "
                f"say which is meant{''.join(f'; {p}' for p in pure)}; set data.answers: mark, or "
                "text"
            )
        return AnswerForm(marks, texts, number)

    def describe(self, form: AnswerForm) -> str:
        """The form and how often each of its kinds occurs, in one line."""
        kinds = {
            "letters": form.marks,
            "numbers": form.marks and form.first_number is not None,
            "texts": form.texts,
        }
        names = {"numbers": f"numbers from {form.first_number}", "texts": "texts of options"}
        said = [
            f"{names.get(kind, kind)} ({self.counts[kind]:,})"
            for kind, holds in kinds.items()
            if holds and self.counts[kind]
        ]
        return "answers are " + (", ".join(said) or "none that an option has")

    def _first_number(self, given: int | None) -> int | None:
        nought, last = self.places.get("nought"), self.places.get("last")
        if nought and last:
            raise UserError(
                f"{last}, and {nought}: numbers that count the options from 1 and from 0 in one "
                "column; mend one of them"
            )
        seen = 0 if nought else 1 if last else None
        if None not in (seen, given) and seen != given:
            raise UserError(
                f"{nought or last}: the answers count the options from {seen}, and "
                f"task.first_option_number is {given}; set it to {seen}"
            )
        found = given if seen is None else seen
        if found is None and self.counts["numbers"]:
            raise UserError(
                "answers are numbers of options, and none of them tells whether the first option "
                "is 0 or 1: set task.first_option_number"
            )
        return found


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    spelled = [" ".join(option.split()).casefold() for option in options]
    wanted = answer.casefold()
    if spelled.count(wanted) != 1:
        return None
    return option_letters(len(options))[spelled.index(wanted)]


def _by_letter(answer: str, options: Sequence[str]) -> str | None:
    letter = _bare(answer)
    return letter if letter in option_letters(len(options)) else None


def _by_number(answer: str, options: Sequence[str], first: int) -> str | None:
    number = answer.removesuffix(".0")
    if not (number.isascii() and number.isdecimal() and len(number) < 6):
        return None
    index = int(number) - first
    return option_letters(len(options))[index] if 0 <= index < len(options) else None
