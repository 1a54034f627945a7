"""Fingerprints of settings and files: what decides whether a stage's work still stands.

Files are known by what they hold: neither moving a file nor touching it changes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

_BLOCK = 1 << 20
# Of a weights file so many blocks are read, evenly spread: training changes all of them.
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_WHOLE_BYTES = 16 << 20


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
    """16 hexadecimal digits of a file's content."""
    hasher = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()[:16]


def model_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of the content of a model's folder, cheap for any size.

    Configuration and tokenizer are read whole. Of larger files it is the size, both ends and
    blocks in between: enough to tell weights that were trained on, overwritten or cut off.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return digest([(str(p.relative_to(folder)), _sampled(p)) for p in files])


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    hasher = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            hasher.update(file.read())
        else:
            hasher.update(file.read(_BLOCK))  # the header of a safetensors file
            for number in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                hasher.update(file.read(_SAMPLE_BYTES))
    return hasher.hexdigest()[:16]
