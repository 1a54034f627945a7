"""What a setting touches, said once beside it: results, or only speed, place or form.

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
    # How it is computed and kept on the way: not the result, but a checkpoint of it.
    FORM = "form"


Speed = Annotated[T, Touches.SPEED]
Place = Annotated[T, Touches.PLACE]
Form = Annotated[T, Touches.FORM]


def of_result(section: BaseModel, *also: Touches, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section's settings that touch its result, and those that touch what is in `also`."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        touched = [mark for mark in field.metadata if isinstance(mark, Touches)]
        if name not in without and all(mark in also for mark in touched):
            found[name] = _plain(getattr(section, name), also)
    return found


def _plain(value: Any, also: tuple[Touches, ...]) -> Any:
    if isinstance(value, BaseModel):
        return of_result(value, *also)
    if isinstance(value, Mapping):
        return {key: _plain(inner, also) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, also) for inner in value]
    return value
