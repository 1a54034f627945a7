"""Parts of files: what one task reads. Where a file is cut depends on the file alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from semievol_ray.sources.files import (
    LINE_SUFFIXES,
    PACKED_SUFFIXES,
    SourceFile,
    is_json_list,
    is_saved_dataset,
)

# What a task reads: enough to pay for the task, and not more than 2,048 of them.
_FEWEST_BYTES, _MOST_PARTS = 32 << 20, 2048
_OPENED_AT_ONCE = 32
_LOOK_BYTES = 1 << 16
# An object store is asked for so much at once.
_BUFFER_BYTES = 8 << 20


@dataclass(frozen=True)
class FilePart:
    """A file from `start` to `stop`, or to its end.

    Both count row groups of a Parquet file, files of a saved dataset, and bytes of JSON lines: a
    line belongs to the part in which its first byte lies. Any other file is one part.
    """

    file: SourceFile
    start: int = 0
    stop: int | None = None
    # About what reading it costs.
    size: int = 0
    # Bytes of the whole file when it was cut.
    file_size: int = 0

    def is_here(self) -> bool:
        """Whether this machine sees the file that was cut, and as it was then."""
        is_local = isinstance(self.file.filesystem, fs.LocalFileSystem)
        return not is_local or _size(self.file) == self.file_size


def cut(files: Sequence[SourceFile]) -> list[list[FilePart]]:
    """The parts of some files, in order, gathered into what one task reads.

    A file that cannot be looked into is one part: whoever reads it says what is wrong with it.
    """
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        sizes = list(pool.map(_size, files))
        enough = max(_FEWEST_BYTES, sum(sizes) // _MOST_PARTS)
        cuts = list(pool.map(lambda file, size: _cut(file, size, enough), files, sizes))
    parts = (
        replace(part, file_size=size)
        for size, found in zip(sizes, cuts, strict=True)
        for part in found
    )
    return list(_gathered(parts, enough))


def open_lines(part: FilePart) -> io.RawIOBase | pa.NativeFile:
    """The bytes of the lines of a part; a packed file is unpacked."""
    assert part.file.filesystem is not None
    if part.start == 0 and part.stop is None:
        return part.file.filesystem.open_input_stream(part.file.path)
    file = part.file.filesystem.open_input_file(part.file.path)
    start, stop = (_line_start(file, at) for at in (part.start, part.stop))
    return _Stretch(file, start, stop)


def buffered(stream: io.RawIOBase | pa.NativeFile) -> io.BufferedReader | pa.NativeFile:
    """A stream of a part as text readers want it."""
    return io.BufferedReader(stream, _BUFFER_BYTES) if isinstance(stream, _Stretch) else stream


class _Stretch(io.RawIOBase):
    """A file's bytes from one position to another."""

    def __init__(self, file: pa.NativeFile, start: int, stop: int) -> None:
        super().__init__()
        self._file, self._left = file, stop - start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, min(len(buffer), self._left))]
        count = int(self._file.readinto(view)) if len(view) else 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _size(file: SourceFile) -> int:
    if file.filesystem is None:
        return 0
    try:
        if is_saved_dataset(file.filesystem, file.path):
            found = file.filesystem.get_file_info(fs.FileSelector(file.path))
            return sum(info.size or 0 for info in found)
        return file.filesystem.get_file_info(file.path).size or 0
    except OSError:
        return 0


def _cut(file: SourceFile, size: int, enough: int) -> list[FilePart]:
    if file.filesystem is None or size <= enough:
        return [FilePart(file, size=size)]
    try:
        weights, is_list = _weights(file, enough), is_json_list(file)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return [FilePart(file, size=size)]
    if weights is not None:
        return list(_stretches(file, weights, enough))
    is_plain = file.suffix in LINE_SUFFIXES and not file.path.lower().endswith(PACKED_SUFFIXES)
    if is_list or not is_plain:
        return [FilePart(file, size=size)]
    starts = list(range(0, size, enough))
    return [FilePart(file, s, min(s + enough, size), min(enough, size - s)) for s in starts]


def _weights(file: SourceFile, enough: int) -> list[int] | None:
    """Bytes of each of the pieces that a file is made of; null where it has none."""
    assert file.filesystem is not None
    if is_saved_dataset(file.filesystem, file.path):
        with file.filesystem.open_input_stream(f"{file.path}/state.json") as stream:
            return [enough] * len(json.loads(stream.read())["_data_files"])
    if file.suffix != ".parquet":
        return None
    with file.filesystem.open_input_file(file.path) as source:
        found = pq.ParquetFile(source).metadata
    return [found.row_group(i).total_byte_size for i in range(found.num_row_groups)]


def _stretches(file: SourceFile, weights: Sequence[int], enough: int) -> Iterator[FilePart]:
    start = size = 0
    for number, weight in enumerate(weights):
        size += weight
        if size >= enough or number == len(weights) - 1:
            yield FilePart(file, start, number + 1, size)
            start, size = number + 1, 0
    if not weights:
        yield FilePart(file)


def _gathered(parts: Iterator[FilePart], enough: int) -> Iterator[list[FilePart]]:
    together: list[FilePart] = []
    for part in parts:
        if together and sum(p.size for p in together) + part.size > enough:
            yield together
            together = []
        together.append(part)
    if together:
        yield together


def _line_start(file: pa.NativeFile, at: int | None) -> int:
    """Where the first line begins at or behind a byte; the end of the file where none does."""
    end = int(file.size())
    if at is None or at >= end:
        return end
    if at == 0:
        return 0
    file.seek(at - 1)
    position = at - 1
    while piece := file.read(_LOOK_BYTES):
        found = piece.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(piece)
    return end
