"""Keys, tokens and passwords: a config holds their names, never their values.

A config is kept with its run, travels in a job's entry point and is quoted in messages. So where
a secret is needed, it is written as `${NAME}` and taken from the environment when it is used; what
looks like a secret written out is refused, and no message repeats it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from semievol_ray.errors import UserError

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_URI = re.compile(r"://[^/\s?#]*@")
_IN_QUERY = re.compile(
    r"://\S*[?&][\w-]*(key|token|secret|password|passwd|signature|sig|credential)=[^&\s]",
    re.IGNORECASE,
)
# As the well-known services write them.
_BY_SHAPE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{12,}|gh[opsru]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abps]-[\w-]{10,}|AIza[\w-]{30,})"
    r"|^(Bearer|Basic)\s+\S",
    re.IGNORECASE,
)
# `tokenizer` and `pad_token` are none of these.
_BY_NAME = re.compile(
    r"((api|access|secret|private|account|auth|subscription|encryption)[_-]?key|(^|[_-])secret"
    r"|(^|(auth|access|api|hf|hub|bearer|refresh|session|security|secret)[_-]?)token"
    r"|passw(or)?d|passphrase|authorization|credentials?|cookie)s?$",
    re.IGNORECASE,
)
# Prompts may speak of anything.
_FREE_TEXT = ("task",)


def find_written_out(config: Mapping[str, Any]) -> str | None:
    """What to say of the first secret that a config has in clear; null where it has none.

    The message names the setting and does not repeat the value.
    """
    for path, value in _leaves(config):
        where = ".".join(path)
        if path[0] in _FREE_TEXT:
            continue
        if path[:3] == ("ray", "runtime_env", "env_vars"):
            is_list = len(path) == 3
            allowed = _NAME if is_list else _REFERENCE
            if allowed.fullmatch(value) is None or _BY_SHAPE.search(value):
                return (
                    f"{where}: values come from the environment, not from the config: give a list "
                    "of names, or NAME: ${OTHER_NAME}"
                )
        elif path[-1] == "api_key_env":
            if _NAME.fullmatch(value) is None or _BY_SHAPE.search(value):
                return f"{where}: expected the name of an environment variable, not the key itself"
        elif not value.startswith("hf://") and (_IN_URI.search(value) or _IN_QUERY.search(value)):
            return f"{where}: leave the credentials out of the URI: set them in the environment"
        elif _BY_SHAPE.search(value) or (
            _BY_NAME.search(path[-1]) and value and _REFERENCE.fullmatch(value) is None
        ):
            return (
                f"{where}: this looks like a secret written out: write ${{NAME}}, and set that "
                "variable in the environment"
            )
    return None


def resolve(value: Any, where: str) -> Any:
    """A value with each `${NAME}` in it, however deep, taken from the environment.

    Raises UserError, naming the setting and the variable, where one is not set.
    """
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: _variable(found[1], where), value)
    if isinstance(value, Mapping):
        return {key: resolve(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(inner, where) for inner in value]
    return value


def api_key(variable: str) -> str:
    """The key that a variable of the environment holds, without blanks around it; "" without one.

    Raises UserError where no request could carry it.
    """
    key = (os.environ.get(variable) or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{variable}: holds what no key does (another kind of quote?)")
    return key


def values_referred(value: Any) -> list[str]:
    """The values of the variables that are referred to in a value, however deep."""
    names = {name for _, text in _leaves({"": value}) for name in _REFERENCE.findall(text)}
    return [os.environ[name] for name in sorted(names) if name in os.environ]


def referred(value: str) -> str | None:
    """The name that a whole value refers to."""
    found = _REFERENCE.fullmatch(value)
    return None if found is None else found[1]


def redact(message: str, secrets: Iterable[str]) -> str:
    """A message of another program without the secrets it may repeat, plain or as a literal."""
    for secret in secrets:
        for spelled in {secret, repr(secret)[1:-1]} - {""}:
            message = message.replace(spelled, "***")
    return message


def _variable(name: str, where: str) -> str:
    found = os.environ.get(name)
    if found is None:
        raise UserError(f"{where}: the environment variable {name} is not set")
    return found


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, path)
    elif isinstance(value, str) and path:
        yield path, value
