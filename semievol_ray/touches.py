"""What a setting touches, said once beside it: results, or only speed or place.

A stage's fingerprint is made of the settings that touch its result. The others may change at any
time, on a run that is half done too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel

T = TypeVar("T")


class Touches(Enum):
    """What another value of a setting would change."""

    # How fast it goes, and on how many machines.
    SPEED = "speed"
    # Where things are, who is told, what is asked of whom: nothing that is computed.
    PLACE = "place"


Speed = Annotated[T, Touches.SPEED]
Place = Annotated[T, Touches.PLACE]


def of_result(section: BaseModel, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section's settings that touch its result."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        elsewhere = any(isinstance(mark, Touches) for mark in field.metadata)
        if name not in without and not elsewhere:
            found[name] = _plain(getattr(section, name))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return of_result(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
