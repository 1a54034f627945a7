"""What comes out of a file: rows, and places where there should have been one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A readable row; `number` is 1-based and counts data rows (lines, for JSONL)."""

    file: str
    number: int
    values: Mapping[str, Any]
    # The columns of the table, read or not; null for JSONL, whose rows have keys of their own.
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and why."""

    file: str
    number: int
    reason: str
    # An open quote in a CSV swallows the lines below it: each counts as a row that is lost.
    rows: int = 1


def flat(error: object) -> str:
    """A message in one line, as plain text even where it quotes what is none."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
