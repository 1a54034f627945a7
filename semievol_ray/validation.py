"""Mappings of settings: one laid over another, and what is wrong with them in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

_MEMBER = re.compile(r"constrained-|literal\[|str$|int$|float$|tuple\[")


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; lists and scalars of `over` replace those of `under`."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error, with the nearest known key where one is unknown."""
    problem = error.errors()[0]
    # Of a union pydantic names the member too; that is no key of the user's.
    where = ".".join(str(part) for part in problem["loc"] if not _MEMBER.match(str(part)))
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"{where}: unknown setting; {hint}"
    if problem["type"] == "missing":
        return f"{where}: this setting is required"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where}: {message}" if where else message


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), model)
    return list(model.model_fields)
