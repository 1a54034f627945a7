"""One run's files under one URI, local or in an object store.

Every file appears whole or not at all: locally by write, fsync and rename; in an object store by
one PUT. A reader therefore never meets half a shard, whichever process was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from semievol_ray.errors import DamagedError, SemiEvolError, UserError
from semievol_ray.store import layout
from semievol_ray.store.fingerprint import digest
from semievol_ray.store.node_cache import cache_root, copy_of


class RunDirectory:
    """Reads and writes a run's files by names relative to the run's URI. Picklable.

    Raises UserError where the URI cannot be opened, SemiEvolError where a write fails (a full
    disk, for one); nothing half-written stays behind.
    """

    def __init__(self, uri: str, run_id: str | None = None) -> None:
        self.uri, self.run_id = uri, run_id
        self.filesystem, self.path = open_uri(uri)
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)
        self._copies: dict[str, Path] = {}

    def __reduce__(self) -> tuple[type[RunDirectory], tuple[str, str | None]]:
        # A relative path means the driver's folder, not the worker's.
        return (RunDirectory, (self.path if self.is_local else self.uri, self.run_id))

    def full_path(self, name: str) -> str:
        """The path of a file on `self.filesystem`.

        Raises UserError for a name that leaves the run: a stranger's manifest may hold any.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{self.uri}: {name!r} is no name of a file in a run")
        return f"{self.path}/{name}"

    def uri_of(self, name: str) -> str:
        """Where others find a file or folder of the run: a path, or a URI of its store."""
        return self.full_path(name) if self.is_local else longer_uri(self.uri, f"/{name}")

    # -- what makes it a run directory -------------------------------------------------------------

    def check_claimable(self) -> None:
        """Raise UserError where the folder holds files and is no run directory."""
        if self.read_mapping(layout.MARKER) is not None:
            return
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        foreign = sorted(
            info.base_name
            for info in found
            if info.base_name not in (layout.LEASE, "lost+found")
            and not info.base_name.startswith(".")
        )
        if foreign:
            raise UserError(
                f"run_dir {self.uri}: holds {foreign[0]!r} and is no run directory (it has no "
                f"{layout.MARKER}); name a new or an empty folder"
            )

    def mark(self) -> None:
        """Make the folder a run directory, unless it is one. Its lease must be held."""
        marker = self.read_mapping(layout.MARKER)
        if marker is None:
            marker = {"format": 2, "run": uuid.uuid4().hex}
            self.write_json(layout.MARKER, marker)
        self.run_id = marker["run"]

    def check_visible(self) -> None:
        """Raise UserError where this machine does not see the run that its driver marked."""
        if self.run_id is None:
            return
        if (self.read_mapping(layout.MARKER) or {}).get("run") != self.run_id:
            raise UserError(
                f"run_dir {self.uri}: is not there on {os.uname().nodename}; workers on several "
                "machines need an object store, or a file system that all of them mount"
            )

    # -- reading ---------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there. Raises UserError where nobody could look."""
        try:
            found = self.filesystem.get_file_info(self.full_path(name))
        except (pa.ArrowInvalid, ValueError) as error:
            raise UserError(f"{self.uri}: is no place of a run: {_flat(error)}") from None
        except OSError as error:
            raise UserError(
                f"{self.uri}: cannot be read: {error.strerror or _flat(error)}"
            ) from None
        return found.type != fs.FileType.NotFound

    def files(self, folder: str, suffix: str = "") -> list[str]:
        """Names (relative to the run) of the files right inside a folder, sorted."""
        selector = fs.FileSelector(self.full_path(folder), allow_not_found=True)
        return sorted(
            f"{folder}/{info.base_name}"
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File
            and info.base_name.endswith(suffix)
            and not info.base_name.startswith(".")
        )

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole Parquet file. Raises SemiEvolError where it is damaged."""
        # ParquetFile and not read_table: the latter infers partitions from the path.
        with self.filesystem.open_input_file(self.full_path(name)) as source:
            try:
                return pq.ParquetFile(source).read(columns=columns)
            except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
                if isinstance(error, OSError) and "thrift" not in str(error):
                    raise  # the store's, and not the file's
                raise DamagedError(f"{self.uri}/{name}: is damaged: {_flat(error)}") from None

    def read_slice(self, name: str, start: int, stop: int) -> pa.Table:
        """Rows of a Parquet file from one to another, of which little else is read."""
        with self.filesystem.open_input_file(self.full_path(name)) as source:
            file = pq.ParquetFile(source)
            wanted, first, skipped = [], 0, 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows <= start:
                    skipped = first + rows
                elif first < stop:
                    wanted.append(group)
                first += rows
            return file.read_row_groups(wanted).slice(start - skipped, stop - start)

    def read_batches(self, name: str, numbers: Iterable[int]) -> list[pa.RecordBatch]:
        """Some of the batches of an Arrow file, by their numbers from 0."""
        with self.filesystem.open_input_file(self.full_path(name)) as source:
            reader = pa.ipc.open_file(source)
            return [reader.get_batch(number) for number in numbers]

    def folders(self, folder: str) -> list[str]:
        """Names (relative to the run) of the folders right inside a folder, sorted."""
        selector = fs.FileSelector(self.full_path(folder), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(f"{folder}/{i.base_name}" for i in found if i.type == fs.FileType.Directory)

    def all_files(self, folder: str) -> dict[str, int]:
        """Names (relative to the run) and sizes of all files below a folder, hidden ones too."""
        selector = fs.FileSelector(self.full_path(folder), allow_not_found=True, recursive=True)
        found = self.filesystem.get_file_info(selector)
        return {i.path[len(self.path) + 1 :]: i.size for i in found if i.type == fs.FileType.File}

    def row_count(self, name: str) -> int | None:
        """Rows of a Parquet file by its footer; null where there is no readable file."""
        try:
            with self.filesystem.open_input_file(self.full_path(name)) as source:
                return pq.ParquetFile(source).metadata.num_rows
        except (FileNotFoundError, pa.ArrowInvalid):
            return None

    def column_bytes(self, name: str) -> int:
        """Bytes of a Parquet file's columns, without the footer that a small one mostly is."""
        with self.filesystem.open_input_file(self.full_path(name)) as source:
            found = pq.ParquetFile(source).metadata
        groups = (found.row_group(i) for i in range(found.num_row_groups))
        return sum(g.column(i).total_compressed_size for g in groups for i in range(g.num_columns))

    def read_json(self, name: str) -> Any:
        """A JSON file, or null where there is none. Raises SemiEvolError where it is damaged."""
        try:
            with self.filesystem.open_input_stream(self.full_path(name)) as source:
                return json.loads(source.read().decode())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError) as error:
            raise SemiEvolError(f"{self.uri}/{name}: is damaged: {_flat(error)}") from None
        except OSError as error:
            raise UserError(
                f"{self.uri}: cannot be read: {error.strerror or _flat(error)}"
            ) from None

    def read_mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or null where there is no file. Raises SemiEvolError for anything else."""
        found = self.read_json(name)
        if found is not None and not isinstance(found, dict):
            raise SemiEvolError(f"{self.uri}/{name}: is damaged: it holds no object")
        return found

    # -- writing ---------------------------------------------------------------------------------

    def write_table(self, name: str, table: pa.Table, group_rows: int | None = None) -> int:
        """Commit a Parquet file; returns its rows. The same table gives the same bytes.

        `group_rows` is how many of them `read_slice` has to read at least.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=group_rows)
        self.write_bytes(name, sink.getvalue())
        return int(table.num_rows)

    def write_batches(self, name: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Commit an Arrow file of batches that are read one by one; there must be one."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        self.write_bytes(name, sink.getvalue())

    def write_json(self, name: str, value: Any) -> None:
        """Commit a JSON file."""
        text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False)
        self.write_bytes(name, text.encode() + b"\n")

    def write_bytes(self, name: str, content: bytes | pa.Buffer) -> None:
        """Commit a file: whole, or not at all."""
        try:
            if self.is_local:
                _replace_atomically(Path(self.full_path(name)), content)
            else:
                with self.filesystem.open_output_stream(self.full_path(name)) as sink:
                    sink.write(content)
        except OSError as error:
            raise SemiEvolError(_write_failure(self.uri, name, error)) from error

    def delete_file(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.full_path(name))

    def delete_owned(self, folder: str, named: Iterable[str], patterns: tuple[str, ...]) -> None:
        """Remove an attempt's files: those that are named, and those that fit its patterns.

        Whatever else lies there is somebody else's and stays; folders that are empty then go.
        """
        names = set(named)
        for name in self.all_files(folder):
            is_ours = name in names or layout.is_owned(name, folder, patterns)
            if is_ours and not self._is_elsewhere(name):
                self.delete_file(name)
        self._remove_empty(folder)

    def _is_elsewhere(self, name: str) -> bool:
        """Whether a link leads out of the run: what is behind it is somebody else's."""
        if not self.is_local:
            return False
        parent = Path(self.full_path(name)).parent.resolve()
        return not parent.is_relative_to(Path(self.path).resolve())

    def _remove_empty(self, folder: str) -> None:
        if self.is_local:
            below = sorted(Path(self.full_path(folder)).rglob("*"), reverse=True)
            for path in [*below, Path(self.full_path(folder))]:
                with contextlib.suppress(OSError):  # not a folder, or not empty
                    path.rmdir()
        elif not self.all_files(folder):
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_dir(self.full_path(folder))

    # -- folders that other programs write and read ------------------------------------------------

    @contextlib.contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """A local folder to fill, which becomes `name` when the block ends without an error.

        What lies at `name` by then, an earlier try's, is replaced.
        """
        target = self.full_path(name)
        if self.is_local:
            parent = Path(target).parent
            parent.mkdir(parents=True, exist_ok=True)
            scratch = parent / f".{Path(target).name}.{uuid.uuid4().hex[:8]}"
            scratch.mkdir()
        else:
            scratch = Path(tempfile.mkdtemp(prefix=".folder.", dir=cache_root()))
        try:
            yield scratch
            if self.is_local:
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)
            else:
                fs.copy_files(str(scratch), target, destination_filesystem=self.filesystem)
        except OSError as error:
            raise SemiEvolError(_write_failure(self.uri, name, error)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def local_folder(self, name: str) -> Path:
        """A folder of the run as a local path: itself, or this machine's copy of it."""
        target = self.full_path(name)
        if self.is_local:
            return Path(target)
        # An attempt's finished folders never change: a process looks once.
        if name not in self._copies:
            try:
                self._copies[name] = copy_of(self.filesystem, target)
            except FileNotFoundError:
                raise SemiEvolError(f"{self.uri}/{name}: not there any more") from None
        return self._copies[name]

    def localise(self, reference: str) -> str:
        """A `layout.reference` as a path on this machine; a path or hub id of the user's as it is.

        What travels to another machine is always the reference: a path of one means nothing there.
        """
        name = layout.referred(reference)
        return reference if name is None else str(self.local_folder(name))

    def scratch_folder(self, name: str) -> Path:
        """A local folder for what is not finished; beside an object store it is this machine's."""
        folder = (
            Path(self.full_path(name))
            if self.is_local
            else cache_root() / f"scratch-{digest(self.uri)}" / name
        )
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def longer_uri(uri: str, tail: str) -> str:
    """The URI or path with `tail` at the end of its path: a store's parameters stay behind it."""
    path, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{path.rstrip('/')}{tail}{mark}{query}"


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and path behind a URI or a local path.

    Raises UserError where pyarrow knows no such filesystem, and for a URI with credentials in it,
    which would be kept with the run.
    """
    if "\0" in uri:
        raise UserError("a path holds a null character")
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if "@" in urlsplit(uri).netloc:
        where = uri.partition("://")[0] + "://" + urlsplit(uri).netloc.rpartition("@")[2]
        raise UserError(
            f"{where}: leave the credentials out of the URI: set them in the environment"
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise UserError(f"{uri}: cannot be opened: {_flat(error)}") from None
    if not path.strip("/"):
        raise UserError(f"{uri}: names no folder")
    return filesystem, path.rstrip("/")


def _replace_atomically(path: Path, content: bytes | pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with scratch.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _flat(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _write_failure(uri: str, name: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{uri}/{name}: no space left; free some and run again: finished work is kept"
    return f"{uri}/{name}: cannot be written: {error.strerror or error}"
