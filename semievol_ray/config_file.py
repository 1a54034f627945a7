"""Configs as YAML: read, overridden from the command line, checked, and written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from semievol_ray.config import PRESETS, Config
from semievol_ray.errors import UserError
from semievol_ray.validation import merge, one_line


class _Loader(yaml.SafeLoader):
    """Safe, and the same whatever another library taught PyYAML's own; a day is read as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_config(source: str | Path | Mapping[str, Any], overrides: tuple[str, ...] = ()) -> Config:
    """A checked config from a YAML file or a mapping, with `key.sub=value` overrides.

    Raises UserError with the file, the setting and the remedy in one line.
    """
    if isinstance(source, str | Path):
        values, where = _read_yaml(Path(source)), str(source)
    else:
        values, where = dict(source), "config"
    return _checked(_overridden(values, overrides), where)


@dataclass(frozen=True)
class Setting:
    """One value of a config, by its dotted name, and who said so."""

    name: str
    value: Any
    origin: str


def settings_of(path: Path, overrides: tuple[str, ...] = ()) -> list[Setting]:
    """Every setting of a config file as it takes effect: set, in the file, a preset's, or default.

    Raises UserError as `load_config` does.
    """
    written = _read_yaml(path)
    set_ = _overridden({}, overrides)
    config = _checked(merge(written, set_), str(path))
    origins = {
        "--set": set_,
        str(path): written,
        f"preset {config.preset}": PRESETS[config.preset],
    }

    def walk(values: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Setting]:
        for key, value in values.items():
            name = (*above, key)
            if isinstance(value, Mapping) and value:
                yield from walk(value, name)
            else:
                says = (origin for origin, said in origins.items() if _names(said, name))
                yield Setting(".".join(name), value, next(says, "default"))

    return list(walk(config.model_dump(mode="json"), ()))


def _names(values: Any, name: tuple[str, ...]) -> bool:
    """Whether a mapping says something of a setting, or of all that it is part of."""
    for key in name:
        if not isinstance(values, Mapping):
            return True
        if key not in values:
            return False
        values = values[key]
    return True


def _overridden(values: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    for override in overrides:
        values = merge(values, _parse_override(override))
    return values


def _checked(values: dict[str, Any], where: str) -> Config:
    preset = values.get("preset", "paper")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"{where}: preset: unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    try:
        return Config.model_validate(merge(PRESETS[preset], values))
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error, Config)}") from None


def config_yaml(config: Config) -> str:
    """The whole config, defaults and all, as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _load(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        # Without the lines that PyYAML quotes: they may hold what is nobody's business.
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        problem = re.sub("'[^']{2,}'", "'…'", getattr(error, "problem", None) or str(error))
        raise UserError(f"{path}: not valid YAML: {problem}{place}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of settings, not {type(values).__name__}")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {key}: expected key=value, as in selection.percentile=40")
    try:
        nested = _load(value)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set {key}: the value is not valid YAML") from None
    # YAML 1.1 reads 1e-4 as a string; people mean the number.
    if isinstance(nested, str):
        with contextlib.suppress(ValueError):
            nested = float(nested)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested
