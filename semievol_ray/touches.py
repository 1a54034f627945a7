"""What a setting touches, said once beside it: results, or only speed or place.

A stage's fingerprint is made of the settings that touch its result. The others may change at any
time, on a run that is half done too. A setting that joined them after runs were made without it is
part of a fingerprint only where it is not at its default, which is what those runs did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Touches(Enum):
    """What another value of a setting would change."""

    # How fast it goes, and on how many machines.
    SPEED = "speed"
    # Where things are, who is told, what is asked of whom: nothing that is computed.
    PLACE = "place"
    # The result, where it is not at its default.
    ADDED = "added"


Speed = Annotated[T, Touches.SPEED]
Place = Annotated[T, Touches.PLACE]
Added = Annotated[T, Touches.ADDED]


def of_result(section: BaseModel, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section's settings that touch its result."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, touched = (
            getattr(section, name),
            [m for m in field.metadata if isinstance(m, Touches)],
        )
        is_one = not touched or (touched == [Touches.ADDED] and value != _default(field))
        if name not in without and is_one:
            found[name] = _plain(value)
    return found


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return of_result(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
