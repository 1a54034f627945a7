"""Files that a command writes where its user says: new ones, whole or not there."""

from __future__ import annotations

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
