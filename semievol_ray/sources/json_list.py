"""A JSON file that is one list: its objects, one after the other, whatever lines they stand on.

Where JSON is broken nobody can tell where the next object begins, so a list that cannot be read to
its end is no list: a line of JSONL costs itself alone, and is the better form for much data.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TextIO

from semievol_ray.errors import UserError
from semievol_ray.sources.files import SourceFile
from semievol_ray.sources.lines import DECODER, LONGEST_CHARACTERS, is_unicode, open_text
from semievol_ray.sources.parts import FilePart
from semievol_ray.sources.rows import BadRow, Row, flat
from semievol_ray.sources.tables import Rows

_READ_CHARACTERS = 1 << 20
_SPACE = " \t\r\n"
_OPEN = "the list is not closed; was the file cut off?"
# Finds the end of an object whose content is not to be had: a key that is there twice.
_ENDS = json.JSONDecoder(parse_int=len, parse_float=len)


def read_json_list(source: SourceFile) -> Rows:
    """The objects of a list; returns how many elements it has.

    Raises UserError where it is broken or not closed.
    """
    number = 0
    with open_text(FilePart(source)) as stream:
        text = _Text(source, stream)
        text.take("[")
        if text.ahead() == "]":
            text.take("]")
        else:
            while True:
                number += 1
                found = text.element(number)
                if isinstance(found, dict):
                    yield Row(source.name, number, found)
                else:
                    yield BadRow(source.name, number, found)
                if text.take(",]") == "]":
                    break
        if text.ahead():
            text.fail(number, "text behind the end of the list")
    return number


class _Text:
    """What was read of a file and not taken yet."""

    def __init__(self, source: SourceFile, stream: TextIO) -> None:
        self._source, self._stream = source, stream
        self._read, self._at = "", 0
        self._number = 0

    def ahead(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            while self._at < len(self._read) and self._read[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._read):
                return self._read[self._at]
            if not self._more():
                return ""

    def take(self, one_of: str) -> str:
        """The next character, which has to be one of these."""
        found = self.ahead()
        if not found:
            self.fail(self._number, _OPEN)
        if found not in one_of:
            self.fail(self._number, f"expected {' or '.join(one_of)}, not {found!r}")
        self._at += 1
        return found

    def element(self, number: int) -> dict[str, Any] | str:
        """The next object, or why there is none."""
        self._number = number
        if not self.ahead():
            self.fail(number, _OPEN)
        while True:
            value, reason = None, None
            try:
                value, end = DECODER.raw_decode(self._read, self._at)
            except (ValueError, RecursionError) as error:
                reason = f"broken JSON: {flat(getattr(error, 'msg', error))}"
                try:
                    _, end = _ENDS.raw_decode(self._read, self._at)
                except (ValueError, RecursionError):
                    # Perhaps it only goes on behind what was read.
                    if not self._more():
                        self.fail(number, reason)
                    continue
            if end == len(self._read) and self._more():
                continue  # a number may go on
            written = self._read[self._at : end]
            self._at = end
            if not is_unicode(written):
                return "not valid UTF-8"
            if reason is None and isinstance(value, dict):
                return value
            return reason or "not a JSON object"

    def fail(self, number: int, reason: str) -> NoReturn:
        """Raise UserError for the list at its so-manieth element."""
        raise UserError(
            f"{self._source.name}: a JSON list that cannot be read: element {max(number, 1)}: "
            f"{reason} (of a file with an object a line, .jsonl, such a line costs itself alone)"
        )

    def _more(self) -> bool:
        """Whether there was more to be read of a row that is not too long yet."""
        held = len(self._read) - self._at
        if held > LONGEST_CHARACTERS:
            return False
        # Twice as much each time, so that a long object is not parsed over and over.
        found = self._stream.read(max(_READ_CHARACTERS, held))
        self._read, self._at = self._read[self._at :] + found, 0
        return bool(found)
