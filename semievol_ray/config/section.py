"""What every section of a config is: frozen, and strict about its keys."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

# A limit in tokens.
Tokens = Annotated[int, Field(gt=0)] | Literal["auto"]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )


_T = TypeVar("_T", int, float)

# A setting that follows from the machines, the model and the number of rows where it is not given.
Auto = Literal["auto"]


def given(value: _T | Auto, alone: _T | None = None) -> _T:
    """A setting that was given, or decided by now; `alone`: what it is where nobody decides."""
    if value != "auto":
        return value
    assert alone is not None, "it was to be decided before"
    return alone
