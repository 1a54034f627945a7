"""Which files a setting names: a path, a glob, a folder, a URI or a hub dataset.

A name that is there is that file, brackets or not. `*`, `?` (not in URIs) and `[…]` stay within one
folder; `**` goes through folders. Of a folder its own files are read and those of its Hive
partitions (`lang=en/`), not what else lies deeper.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.sources.rows import flat
from semievol_ray.store import file_fingerprint
from semievol_ray.store.run_directory import open_uri

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv")
LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
PACKED_SUFFIXES = (".gz", ".zst", ".bz2")

_PARTITION = re.compile(r"[^=/]+=[^/]*")
# How Hive writes that a partition's value is null.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# What a published data set says of itself.
_TOLD = re.compile(
    r"(README|LICEN[CS]E|NOTICE|CITATION|CHANGELOG)(\.(md|txt|rst|cff|bib))?|dataset_infos?\.json",
    re.IGNORECASE,
)
# Names that a run gives its tables: a glob that takes one of these would read a run's own output.
_RUN_FILES = (
    "config.json",
    "ingest/attempt-1/quarantine.parquet",
    "ingest/attempt-1/unlabeled/shard-00000.parquet",
)


@dataclass(frozen=True)
class SourceFile:
    """One file behind a path, glob or URI; `filesystem` is null for a Hugging Face dataset."""

    name: str
    filesystem: fs.FileSystem | None
    path: str

    def fingerprint(self, known: Mapping[str, Any] | None = None) -> str:
        """Changes when the file's content does; of a hub dataset it is the name.

        `known` are `state`s by file name: one that has not been touched is not read again. Raises
        as `readable` does.
        """
        if self.filesystem is None:
            return self.path
        with self.readable():
            info = self.filesystem.get_file_info(self._content)
            before = (known or {}).get(self.name)
            if before is not None and before[:2] == [info.size, info.mtime_ns]:
                return str(before[2])
            key = (self.filesystem.type_name, self._content, info.size, info.mtime_ns)
            if key not in _CONTENTS:
                _CONTENTS[key] = file_fingerprint(self.filesystem, self._content)
            return _CONTENTS[key]

    def state(self) -> list[Any]:
        """Size, modification time and fingerprint, to be kept for `fingerprint`."""
        if self.filesystem is None:
            return [0, 0, self.path]
        info = self.filesystem.get_file_info(self._content)
        return [info.size, info.mtime_ns, self.fingerprint()]

    @property
    def _content(self) -> str:
        """The file that changes with the content: itself, or what names a dataset's files."""
        assert self.filesystem is not None
        saved = is_saved_dataset(self.filesystem, self.path)
        return f"{self.path}/state.json" if saved else self.path

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """A block that reads the file; what goes wrong there comes out as one line.

        Raises UserError where the file is to blame, SemiEvolError where an object store is.
        """
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(f"{self.name}: cannot be read: {flat(error)}") from None
        except (OSError, EOFError, pa.ArrowException) as error:
            remote = not isinstance(self.filesystem, fs.LocalFileSystem)
            kind = SemiEvolError if remote and isinstance(error, OSError) else UserError
            raise kind(f"{self.name}: cannot be read: {flat(error)}") from None

    @property
    def suffix(self) -> str:
        """What kind of file it is, in lower case: that of `a.CSV.gz` is `.csv`."""
        stem = self.path.lower()
        for packed in PACKED_SUFFIXES:
            stem = stem.removesuffix(packed)
        return Path(stem).suffix

    @property
    def partitions(self) -> dict[str, str | None]:
        """The columns that Hive partitions give: of `lang=en/0.parquet` {"lang": "en"}."""
        folders = self.path.split("/")[:-1] if self.filesystem is not None else []
        pairs = (f.partition("=") for f in folders if _PARTITION.fullmatch(f))
        return {name: None if v == _NULL_PARTITION else unquote(v) for name, _, v in pairs}


# Of files that this process has read: ingest asks twice.
_CONTENTS: dict[tuple[str, str, int, int], str] = {}


def find_files(locations: str | Sequence[str], setting: str) -> list[SourceFile]:
    """The files behind one location or several, each once, in the order of the locations.

    A location is a path, a glob, a folder, a URI or `hf://dataset[:config][@revision]/split`.
    Raises UserError, naming the setting, where one of them is nothing.
    """
    found: dict[tuple[str, str], SourceFile] = {}
    for location in _several(locations):
        try:
            files = _find(location)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{setting}: {location}: cannot be listed: {flat(error)}") from None
        if not files:
            raise UserError(f"{setting}: {location}: no such file")
        for file in files:
            found.setdefault((type(file.filesystem).__name__, file.path), file)
    return list(found.values())


def refuse_overlap(
    run_dir: str, setting: str, locations: str | Sequence[str], files: Sequence[SourceFile]
) -> None:
    """Raise UserError where an input lies in the run directory, or a glob would read from it.

    `files` are those that were found behind `locations`. What is inside a run directory is the
    run's: it is written anew, and deleted on `--redo`.
    """
    filesystem, path = open_uri(run_dir)
    own = _resolved(filesystem, path)
    for location in _several(locations):
        if location.startswith("hf://"):
            continue
        pattern = _resolved(filesystem, _open(location)[1]).split("/")
        if any(_matches(f"{own}/{name}".split("/"), pattern) for name in _RUN_FILES):
            raise UserError(
                f"{setting}: {location} would also take what the run writes into {run_dir}; "
                "choose another run_dir, or a narrower pattern"
            )
    for file in files:
        if type(file.filesystem) is not type(filesystem):
            continue
        if f"{_resolved(filesystem, file.path)}/".startswith(f"{own}/"):
            raise UserError(
                f"{setting}: {file.name} lies inside the run directory {run_dir}, whose files are "
                "the run's own; choose another run_dir"
            )


def is_saved_dataset(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a folder is what `Dataset.save_to_disk` wrote."""
    return filesystem.get_file_info(f"{path}/state.json").type == fs.FileType.File


def is_json_list(file: SourceFile) -> bool:
    """Whether a `.json` file is one list, and not an object a line."""
    if file.filesystem is None or file.suffix != ".json":
        return False
    with file.filesystem.open_input_stream(file.path) as stream:
        while piece := stream.read(1 << 12):
            if piece := piece.removeprefix(b"\xef\xbb\xbf").lstrip():
                return bytes(piece).startswith(b"[")
    return False


def _find(location: str) -> list[SourceFile]:
    if location.startswith("hf://"):
        return [SourceFile(location, None, location.removeprefix("hf://"))]
    filesystem, path = _open(location)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        paths = sorted(_of_path(filesystem, path))
    else:
        paths = sorted(set(_of_glob(filesystem, path)))
    prefix = "" if "://" not in location else location.partition("://")[0] + "://"
    return [SourceFile(prefix + p, filesystem, p) for p in paths]


def _open(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and path of a location; in a URI `?` begins its options, as everywhere."""
    scheme, colon, rest = location.partition("://")
    host, slash, path = rest.partition("/")
    if colon:  # brackets have no place in a URI, but in a pattern
        location = scheme + colon + host + slash + path.replace("[", "%5B").replace("]", "%5D")
    return open_uri(location)


def _of_path(filesystem: fs.FileSystem, path: str) -> Iterator[str]:
    """A file itself; the files of a folder and of its partitions."""
    is_folder = filesystem.get_file_info(path).type == fs.FileType.Directory
    if not is_folder or is_saved_dataset(filesystem, path):
        yield path
    elif filesystem.get_file_info(f"{path}/dataset_dict.json").type == fs.FileType.File:
        raise UserError(f"{path}: a saved dataset of several splits; name one, as in {path}/train")
    else:
        for info in filesystem.get_file_info(fs.FileSelector(path)):
            if _is_marker(info.base_name):
                continue
            if info.type == fs.FileType.File or _PARTITION.fullmatch(info.base_name):
                yield from _of_path(filesystem, info.path)


def _of_glob(filesystem: fs.FileSystem, pattern: str) -> Iterator[str]:
    segments = pattern.split("/")
    fixed = list(itertools.takewhile(lambda s: not _is_pattern(s), segments))
    rest = segments[len(fixed) :]
    if rest:
        yield from _below(filesystem, "/".join(fixed), rest if rest[-1] != "**" else [*rest, "*"])


def _below(filesystem: fs.FileSystem, folder: str, segments: Sequence[str]) -> Iterator[str]:
    head, rest = segments[0], segments[1:]
    if not _is_pattern(head):
        path = f"{folder}/{head}"
        if rest:
            yield from _below(filesystem, path, rest)
        elif filesystem.get_file_info(path).type != fs.FileType.NotFound:
            yield from _of_path(filesystem, path)
        return
    if head == "**":
        yield from _below(filesystem, folder, rest)
    for info in filesystem.get_file_info(fs.FileSelector(folder or "/", allow_not_found=True)):
        name, is_folder = info.base_name, info.type == fs.FileType.Directory
        hidden = _is_marker(name) and not head.startswith(name[0])
        # A folder may well be called `br[1]`.
        if hidden or not (name == head or fnmatch.fnmatchcase(name, head)):
            continue
        if head == "**":
            if is_folder:
                yield from _below(filesystem, info.path, segments)
        elif rest:
            if is_folder:
                yield from _below(filesystem, info.path, rest)
        elif not is_folder or _PARTITION.fullmatch(name) or is_saved_dataset(filesystem, info.path):
            yield from _of_path(filesystem, info.path)


def _several(locations: str | Sequence[str]) -> Sequence[str]:
    return [locations] if isinstance(locations, str) else locations


def _is_pattern(segment: str) -> bool:
    return any(character in segment for character in "*?[")


def _is_marker(name: str) -> bool:
    """What programs and publishers leave beside data: `.crc`, `_SUCCESS`, `README.md`."""
    is_data = name.endswith((*TABLE_SUFFIXES, *LINE_SUFFIXES, *PACKED_SUFFIXES))
    is_told = _TOLD.fullmatch(name) or (name.startswith("_") and not is_data)
    return name.startswith(".") or bool(is_told)


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern takes a path, both in segments."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[i:], pattern[1:] or ["*"]) for i in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(
        path[1:], pattern[1:]
    )  # fmt: skip


def _resolved(filesystem: fs.FileSystem, path: str) -> str:
    """A path that is the same for every spelling of one place: links followed, no `..`."""
    if isinstance(filesystem, fs.LocalFileSystem):
        return str(Path(path).resolve())
    return posixpath.normpath(path)
