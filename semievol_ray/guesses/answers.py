"""What the answers of a column look like, whatever they are called."""

from __future__ import annotations

import re

# What a \boxed{…} holds. A regular expression counts no braces: three deep are enough for formulas
# as \boxed{\frac{\sqrt{3^{2}}}{2}}.
BOX = r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"


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
