"""What every section of a config is: frozen, and strict about its keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# A limit in tokens.
Tokens = Annotated[int, Field(gt=0)] | Literal["auto"]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )
