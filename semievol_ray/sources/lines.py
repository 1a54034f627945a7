"""CSV and JSONL: text, read line by line, where one broken line may not cost its neighbours.

A quote that is opened and not closed takes the lines below it into one field. Where the row turns
out bad, each line it took counts as a row that is lost.

Of tab-separated files some quote their fields as a CSV does, and some (GLUE's) have quotes that are
part of the text: there a line is a row (`_lines_are_rows`).
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Iterator
from typing import Any

from semievol_ray.errors import UserError
from semievol_ray.sources.files import SourceFile
from semievol_ray.sources.parts import FilePart, buffered, open_lines
from semievol_ray.sources.rows import BadRow, Row, flat
from semievol_ray.sources.tables import Rows, chosen

# A row of text that is longer is none: a quote is open, or a line has no end.
LONGEST_CHARACTERS = 1 << 26
# Lines that say whether a tab-separated file quotes its fields.
_LOOKED_AT, _MOST_CHARACTERS, _NEARLY_ALL = 100_000, 1 << 25, 0.99


def read_csv(source: SourceFile, columns: Collection[str] | None) -> Rows:
    """The rows of a CSV or TSV file, whose first line names the columns; returns how many."""
    csv.field_size_limit(sys.maxsize)  # the bound above is by row, and has a better message
    with open_text(FilePart(source), newline="") as stream:
        lines = _Lines(source, stream)
        plain = source.suffix == ".tsv" and _lines_are_rows(source)
        reader = csv.reader(
            lines,
            delimiter="\t" if source.suffix == ".tsv" else ",",
            quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
            strict=True,
        )
        try:
            names = tuple(_unquoted(name) if plain else name for name in next(reader, ()))
        except csv.Error as error:
            raise UserError(f"{source.name}: the header cannot be read: {error}") from None
        if not all(map(is_unicode, names)) or "\0" in "".join(names):
            raise UserError(f"{source.name}: the header is not UTF-8; save the file as UTF-8")
        wanted = [(i, n) for n in chosen(source, names, columns) for i in [names.index(n)]]
        number = 0
        while True:
            first = reader.line_num + 1
            lines.begin()
            reason = None
            try:
                cells = next(reader, None)
            except csv.Error as error:
                cells, reason = [], _quote(str(error))
            if cells is None:
                return number
            taken = reader.line_num + 1 - first
            if not cells and reason is None:
                continue  # an empty line
            if reason is None and len(cells) != len(names):
                reason = f"{len(cells)} fields, and not the {len(names)} of the header"
            if reason is None and not all(is_unicode(cells[i]) for i, _ in wanted):
                reason = "not valid UTF-8"
            if plain:
                cells = [_unquoted(cell) for cell in cells]
            elif source.suffix == ".tsv" and taken > 1 and lines.tabs == {len(names) - 1} != {0}:
                # Each of them would be a row by itself.
                reason = "a quote is opened in one row and closed in another"
            if reason is None:
                number += 1
                yield Row(source.name, number, {name: cells[i] for i, name in wanted}, names)
                continue
            number += taken
            if taken > 1:
                reason = f"lines {first} to {first + taken - 1}: {reason}"
            yield BadRow(source.name, number - taken + 1, reason, rows=taken)


def read_jsonl(part: FilePart) -> Rows:
    """The objects of a part of a file that has one a line; returns how many lines it has."""
    source = part.file
    with open_text(part) as stream:
        lines = _Lines(source, stream)
        for number, line in enumerate(lines, start=1):
            lines.begin()
            if not line.strip():
                continue
            values = parse_object(line)
            if isinstance(values, str):
                yield BadRow(source.name, number, values)
            else:
                yield Row(source.name, number, values)
        return lines.line


def parse_object(line: str) -> dict[str, Any] | str:
    """A line's JSON object, or why there is none."""
    if not is_unicode(line):
        return "not valid UTF-8"
    try:
        values = DECODER.decode(line)
    except json.JSONDecodeError as error:
        return f"broken JSON: {error.msg}"
    except ValueError as error:  # a repeated key, a number of thousands of digits
        return f"broken JSON: {flat(error)}"
    except RecursionError:
        return "broken JSON: nested too deeply"
    return values if isinstance(values, dict) else "not a JSON object"


def is_unicode(text: str) -> bool:
    """Whether a text read with `surrogateescape` was valid UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Lines:
    """A text's lines; UserError where those of one row come to more than any row holds.

    Whoever reads them says where a row begins.
    """

    def __init__(self, source: SourceFile, stream: io.TextIOWrapper) -> None:
        self.source, self.stream = source, stream
        self.line = 0
        self.begin()

    def begin(self) -> None:
        """A row begins with the next line."""
        self.characters = 0
        # How many there are in each of its lines.
        self.tabs: set[int] = set()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(LONGEST_CHARACTERS)
        if not line:
            raise StopIteration
        self.line += 1
        self.characters += len(line)
        if line.strip():
            self.tabs.add(line.count("\t"))
        if len(line) == LONGEST_CHARACTERS or self.characters > LONGEST_CHARACTERS:
            raise UserError(
                f"{self.source.name}: line {self.line}: a row of more than "
                f"{LONGEST_CHARACTERS >> 20} Mi characters; is a quote open, or is this no text?"
            )
        return line


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


# One for all lines: `json.loads` makes one each time.
DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _lines_are_rows(source: SourceFile) -> bool:
    """Whether the quotes of a tab-separated file are text.

    They are where a field opens with one that is not closed in it, and that line and the next have
    the header's tabs, as nearly all have: what a CSV quotes so goes on in a line that has others.
    """
    seen: list[tuple[int, bool]] = []
    characters = 0
    with open_text(FilePart(source), newline="") as stream:
        while len(seen) < _LOOKED_AT and characters < _MOST_CHARACTERS:
            line = stream.readline(_MOST_CHARACTERS)
            if not line:
                break
            characters += len(line)
            if line.strip():
                fields = line.rstrip("\r\n").split("\t")
                opens = '"' in line and any(f[:1] == '"' and _unquoted(f) == f for f in fields)
                seen.append((len(fields), opens))
    whole = [count == seen[0][0] for count, _ in seen]
    if not seen or seen[0][0] == 1 or sum(whole) < _NEARLY_ALL * len(whole):
        return False
    follows = [*whole[1:], True]
    return any(o and w and f for (_, o), w, f in zip(seen, whole, follows, strict=True))


def _unquoted(cell: str) -> str:
    """A field without the quotes that a CSV would have put around it; other quotes are its text."""
    inner = cell[1:-1]
    if len(cell) < 2 or not cell[0] == cell[-1] == '"' or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"')


def _quote(error: str) -> str:
    if "unexpected end of data" in error:
        return "a quote is opened and never closed"
    if "expected after" in error:
        return "text after a closing quote; an inner quote is written twice"
    return error


def open_text(part: FilePart, newline: str | None = None) -> io.TextIOWrapper:
    """A part of a file as text, in which bytes that are no UTF-8 are half characters."""
    # Only a file's beginning has a byte order mark.
    encoding = "utf-8" if part.start else "utf-8-sig"
    stream = buffered(open_lines(part))
    # Undecodable bytes survive as surrogates: the row that holds them is told apart later.
    return io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
