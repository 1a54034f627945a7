"""Where rows of a split stand in the user's files, and those of them that are put aside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from semievol_ray.sources import FilePart
from semievol_ray.sources.rows import flat


class Places:
    """Rows of one split that are put aside, by the part of its files they are in."""

    def __init__(self, split: str, parts: list[FilePart]) -> None:
        self._split, self._parts = split, parts
        # Rows of each part, as far as they are read.
        self.passed: list[int] = []
        self._found: list[tuple[int, int, str]] = []

    def add(self, part: int, row: int, reason: str) -> tuple[str, int]:
        """One more row; returns its file, and its number there."""
        self._found.append((part, row, reason))
        return self.of({"part": part, "row": row})

    def of(self, placed: Mapping[str, Any]) -> tuple[str, int]:
        """The file of a row, and its number there: that in its part, and the parts before it."""
        part, file = placed["part"], self._parts[placed["part"]].file
        earlier = range(part - 1, -1, -1)
        before = itertools.takewhile(lambda i: self._parts[i].file is file, earlier)
        return file.name, placed["row"] + sum(self.passed[i] for i in before)

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """The rows in the order in which they stand in the files."""
        for part, row, reason in sorted(self._found):
            name, number = self.of({"part": part, "row": row})
            yield {"split": self._split, "file": name, "row": number, "reason": flat(reason)}
