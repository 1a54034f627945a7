"""Files that a command writes where its user says: whole or not there, and over none but ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from semievol_ray.errors import UserError


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to fill, which is removed again where that fails.

    Raises UserError where there is one already, or can be none.
    """
    try:
        file = path.open("xb")
    except FileExistsError:
        raise UserError(f"{path}: there is a file already") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_file(path: Path, mark: str) -> Iterator[BinaryIO]:
    """A file to fill, which takes the place of an earlier one that `mark` shows to be ours.

    Raises UserError where another's file is there, or none can be.
    """
    try:
        if path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"{path}: there is a file already, and it is none of ours")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with new_file(scratch) as file:
        yield file
    scratch.replace(path)
