"""Folders of a run on this machine: one copy a machine of what lies in an object store.

A copy is named by the folder and the state of its files, appears whole, and is shared by all the
processes of a user. Copies that nobody used for days are removed by whoever makes the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from pyarrow import fs

from semievol_ray.errors import SemiEvolError
from semievol_ray.store.fingerprint import digest

_KEPT_SECONDS = 3 * 24 * 3600


def cache_root() -> Path:
    """The folder of this machine's copies: the user's own, closed to others."""
    root = Path(tempfile.gettempdir()) / f"semievol-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise SemiEvolError(f"{root}: belongs to somebody else; set TMPDIR to a folder of yours")
    return root


def copy_of(filesystem: fs.FileSystem, folder: str) -> Path:
    """This machine's copy of a folder. Raises FileNotFoundError where there is none."""
    infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    versions = [(i.path, i.size, i.mtime_ns) for i in infos if i.type == fs.FileType.File]
    if not versions:
        raise FileNotFoundError(folder)
    copy = cache_root() / f"copy-{digest([folder, versions])}"
    if not copy.exists():
        _remove_unused(copy.parent)
        partial = copy.parent / f".{copy.name}.{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            fs.copy_files(folder, str(partial), source_filesystem=filesystem)
            with contextlib.suppress(OSError):  # another process was faster: its copy is as good
                partial.rename(copy)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.utime(copy)
    return copy


def _remove_unused(root: Path) -> None:
    for entry in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
