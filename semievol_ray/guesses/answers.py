"""What the answers of a column look like, whatever they are called."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Collection, Sequence

# What a \boxed{…} holds. A regular expression counts no braces: three deep are enough for formulas
# as \boxed{\frac{\sqrt{3^{2}}}{2}}.
BOX = r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"


# What prose has not.
_CODE = re.compile(r"\bdef \w+\(|\bclass \w+[:(]|\bSELECT\b.+\bFROM\b|#include|=>|==|;$|\s--?[a-z]")
_MOST_WORDS, _CHARACTERS_A_WORD = 8, 4
# Thai, Lao, Tibetan, Burmese and Khmer; kana and Chinese.
_UNBLANKED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# What stands between the labels of a row that has several.
_BETWEEN = re.compile(r"[,;|]")
_DIGIT = re.compile(r"\d")
_MOST_SHOWN = 5
# Codes of labels, as 1,4,7; and what may be one number: its thousands, as they are parted anywhere.
_CODES = re.compile(r"\d{1,3}(?:\s*[,;|]\s*\d{1,3})*")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})*,\d{3}")
# How many of the answers are codes at least, have several, and, of these, three or more.
_CODED, _SEVERAL, _LISTS = 0.9, 0.1, 0.01
# More different parts than these are no codes, and in open answers no labels.
_MOST_PARTS = 50
# Where scales end, how many scores have a fraction, how often they repeat, and how many differ
# among most of them.
_SCALES, _FRACTIONS, _ROWS_A_SCORE = (1, 5, 10, 100), 0.1, 3
_MOST_SCORES, _MOST_ROWS = 60, 0.9


def is_number(text: str) -> bool:
    """Whether a text is a number, as 12, 1,200, 5.0 or 7 %."""
    try:
        number_of(text)
    except ValueError:
        return False
    return any(character.isdigit() for character in text)


def number_of(text: str) -> float:
    """The value of a number. Raises ValueError where a text is none."""
    return float(text.replace(",", "").removesuffix("%"))


def box_of(answer: str) -> str:
    """What the last box of a worked answer holds; nothing where it has none."""
    found = re.findall(BOX, answer)
    return found[-1].strip(" $\\") if found else ""


def of_whole_answers(answers: Sequence[str]) -> str:
    """That such texts are hardly ever the same, in one line; nothing where they may well be."""
    half = len(answers) / 2
    if answers and statistics.median(map(_words, answers)) > _MOST_WORDS:
        what = f"half of the answers have more than {_MOST_WORDS} words"
    elif answers and sum(map(_is_json, answers)) > half:
        what = "the answers are JSON"
    elif answers and sum(bool(_CODE.search(answer)) for answer in answers) > half:
        what = "the answers look like code"
    else:
        return ""
    return (
        f"{what}: votes and evaluation compare whole answers, case, articles and punctuation "
        "aside, and of such answers hardly two agree; better is a column of short ones, a "
        "task.answer_pattern that takes the part that counts, or a closed task"
    )


def of_several_labels(answers: Collection[str], *, often: bool) -> str:
    """That answers combine several labels, in one line; nothing where they do not.

    `often`: only where most do, and have far fewer parts than there are combinations, as open
    answers with commas have not. What has a digit is no label: dates, points, titles, times.
    """
    parts = {answer.casefold(): _parts(answer) for answer in answers}
    spelled: dict[tuple[str, ...], list[str]] = {}
    for answer in answers:
        if not _DIGIT.search(answer):
            spelled.setdefault(tuple(sorted(_parts(answer))), []).append(answer)
    several = [x for a, x in parts.items() if len(x) > 1 and not _DIGIT.search(a)]
    names = list(dict.fromkeys(part for found in parts.values() for part in found))
    few = (2 if often else 1) * len(names) < len(parts)
    if often and len(names) > _MOST_PARTS:
        few = False
    same = [a for key, a in spelled.items() if len(key) > 1 and len({*map(str.casefold, a)}) > 1]
    if 2 * len(several) > len(parts) and few and _is_unordered(parts.values()):
        shown = ", ".join(map(repr, names[:_MOST_SHOWN])) + ", …" * (len(names) > _MOST_SHOWN)
        what = f"most answers combine some of {len(names):,} labels ({shown})"
        if same:
            what += f", and in several ways, as {same[0][0]!r} and {same[0][1]!r}"
    elif same and not often:
        what = f"{same[0][0]!r} and {same[0][1]!r} combine the same labels, and are two answers"
    else:
        return ""
    return _combined(what)


def of_several_codes(answers: Sequence[str]) -> str:
    """That answers are several codes of labels each, as 1,4,7; nothing where they are numbers.

    A comma between two may be a decimal one. Only three or more tell, or other signs and blanks.
    """
    coded = [answer for answer in answers if _CODES.fullmatch(answer)]
    several = [a for a in coded if _BETWEEN.search(a) and not _THOUSANDS.fullmatch(a)]
    if len(coded) < _CODED * len(answers) or len(several) < max(2, _SEVERAL * len(answers)):
        return ""
    apart = [answer for answer in several if not is_number(answer)]
    lists = [answer for answer in several if answer.count(",") > 1 and answer not in apart]
    if len(lists) < max(1, _LISTS * len(several)):
        found = {_parts(answer) for answer in coded}
        few = len({part for parts in found for part in parts}) <= _MOST_PARTS
        differ = len({*map(len, found)}) > 1
        if 2 * len(apart) < len(several) or not (few and differ and _is_unordered(found)):
            return ""
    shown = max(several, key=len)
    return _combined(f"the answers look like several labels in a cell, as {shown!r}")


def of_scores(values: Sequence[float]) -> str:
    """That numbers are scores on a scale, in one line; nothing where they are not.

    Those are few, and come again; prices, measures and what is calculated do not, or end nowhere.
    """
    fractions = sum(not value.is_integer() for value in values)
    if not values or fractions < _FRACTIONS * len(values):
        return ""
    counts = Counter(values)
    most = sum(count for _, count in counts.most_common(_MOST_SCORES))
    if _ROWS_A_SCORE * len(counts) > len(values) or most < _MOST_ROWS * len(values):
        return ""
    if not _are_on_a_scale(min(values), max(values)):
        return ""
    return (
        f"the answers are numbers from {min(values):g} to {max(values):g} with fractions, as "
        "scores are; a reply counts only where it is equal, or within task.relative_tolerance (a "
        "share of the larger number), and no correlation is measured"
    )


def _are_on_a_scale(low: float, high: float) -> bool:
    """Whether numbers from one to another may be all of a scale, as 0 to 5 or -1 to 1."""
    if low < 0:
        return low == -high and high in _SCALES
    end = next((end for end in _SCALES if high <= end), None)
    return end is not None and (end in (1, high) or (low in (0, 1) and 2 * high > end))


def _words(text: str) -> float:
    """How many words a text has; Chinese, Japanese and Thai have no blanks between them."""
    return max(len(text.split()), len(_UNBLANKED.findall(text)) / _CHARACTERS_A_WORD)


def _is_json(text: str) -> bool:
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _combined(what: str) -> str:
    return (
        f"{what}; a row has one answer, and each combination is one of its own: keep one label of "
        "each row, or ask for one label (has it, or not) at a time; kind: text, with the labels "
        "sorted, counts only those that are all right"
    )


def _is_unordered(answers: Collection[tuple[str, ...]]) -> bool:
    """Whether half of what stands behind another part stands first, or alone, elsewhere.

    In names of places, in dates and in pairs of an aspect and a label it does not.
    """
    first = {parts[0] for parts in answers if parts}
    behind = {part for parts in answers for part in parts[1:]}
    return 2 * len(behind & first) >= len(behind) > 0


def _parts(answer: str) -> tuple[str, ...]:
    return tuple(part for x in _BETWEEN.split(answer.casefold()) if (part := x.strip()))
