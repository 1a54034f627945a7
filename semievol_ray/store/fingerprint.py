"""Fingerprints of settings and files: what decides whether a stage's work still stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pyarrow import fs

# Larger files are known by size and modification time: hashing a corpus would read it twice.
_HASHED_BYTES = 64 << 20


def digest(value: Any) -> str:
    """16 hexadecimal digits of any JSON-able value, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` to value, so that one changed setting can be named."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return flat


def file_fingerprint(filesystem: fs.FileSystem, path: str) -> str:
    """A file's content hash; of a file over 64 MiB its size and modification time."""
    info = filesystem.get_file_info(path)
    if info.size is not None and info.size > _HASHED_BYTES:
        return f"{info.size}:{info.mtime_ns}"
    hasher = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()[:16]
