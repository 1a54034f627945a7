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
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.store.fingerprint import digest


class RunDirectory:
    """Reads and writes a run's files by names relative to the run's URI. Picklable.

    Raises UserError where the URI cannot be opened, SemiEvolError where a write fails (a full
    disk, for one); nothing half-written stays behind.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.filesystem, self.path = open_uri(uri)
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[type[RunDirectory], tuple[str]]:
        # A relative path means the driver's folder, not the worker's.
        return (RunDirectory, (self.path if self.is_local else self.uri,))

    def full_path(self, name: str) -> str:
        """The path of a file on `self.filesystem`."""
        return f"{self.path}/{name}"

    # -- reading ---------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there."""
        return self.filesystem.get_file_info(self.full_path(name)).type != fs.FileType.NotFound

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
        """A whole Parquet file."""
        # ParquetFile and not read_table: the latter infers partitions from the path.
        with self.filesystem.open_input_file(self.full_path(name)) as source:
            return pq.ParquetFile(source).read(columns=columns)

    def row_count(self, name: str) -> int | None:
        """Rows of a Parquet file by its footer; null where there is no readable file."""
        try:
            with self.filesystem.open_input_file(self.full_path(name)) as source:
                return pq.ParquetFile(source).metadata.num_rows
        except (FileNotFoundError, pa.ArrowInvalid):
            return None

    def read_json(self, name: str) -> Any:
        """A JSON file, or null where there is none."""
        try:
            with self.filesystem.open_input_stream(self.full_path(name)) as source:
                return json.loads(source.read().decode())
        except FileNotFoundError:
            return None

    # -- writing ---------------------------------------------------------------------------------

    def write_table(self, name: str, table: pa.Table) -> int:
        """Commit a Parquet file; returns its rows. The same table gives the same bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue())
        return table.num_rows

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

    def delete(self, name: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""
        info = self.filesystem.get_file_info(self.full_path(name))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.full_path(name))
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(self.full_path(name))

    # -- folders that other programs write and read ------------------------------------------------

    @contextlib.contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """A local folder to fill, which becomes `name` when the block ends without an error."""
        target = self.full_path(name)
        if self.is_local:
            parent = Path(target).parent
            parent.mkdir(parents=True, exist_ok=True)
            scratch = parent / f".{Path(target).name}.{uuid.uuid4().hex[:8]}"
            scratch.mkdir()
        else:
            scratch = Path(tempfile.mkdtemp(prefix="semievol-"))
        try:
            yield scratch
            if self.is_local:
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)
            else:
                self.delete(name)
                fs.copy_files(str(scratch), target, destination_filesystem=self.filesystem)
        except OSError as error:
            raise SemiEvolError(_write_failure(self.uri, name, error)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def local_folder(self, name: str) -> Path:
        """A folder of the run as a local path: itself, or a copy kept on this node."""
        target = self.full_path(name)
        if self.is_local:
            return Path(target)
        selector = fs.FileSelector(target, recursive=True)
        versions = [(i.path, i.size, i.mtime_ns) for i in self.filesystem.get_file_info(selector)]
        copy = Path(tempfile.gettempdir()) / f"semievol-{digest([target, versions])}"
        if not copy.exists():
            scratch = Path(tempfile.mkdtemp(prefix="semievol-"))
            fs.copy_files(target, str(scratch), source_filesystem=self.filesystem)
            with contextlib.suppress(OSError):  # another process was faster: its copy is as good
                scratch.rename(copy)
        return copy

    def scratch_folder(self, name: str) -> Path:
        """A local folder that survives a restart on this node: checkpoints and logs go there."""
        folder = (
            Path(self.full_path(name))
            if self.is_local
            else Path(tempfile.gettempdir()) / f"semievol-scratch-{digest(self.uri)}" / name
        )
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and path behind a URI or a local path.

    Raises UserError where pyarrow knows no such filesystem, and for a URI with credentials in it,
    which would be kept with the run.
    """
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
        raise UserError(f"{uri}: cannot be opened: {' '.join(str(error).split())}") from None
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


def _write_failure(uri: str, name: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{uri}/{name}: no space left; free some and run again: finished work is kept"
    return f"{uri}/{name}: cannot be written: {error.strerror or error}"
