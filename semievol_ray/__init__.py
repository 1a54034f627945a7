"""SemiEvol on Ray: a few labels and a large unlabelled corpus into a better LLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol_ray.errors import SemiEvolError, UserError

if TYPE_CHECKING:
    from semievol_ray.classifiers import Classifier
    from semievol_ray.config import Config
    from semievol_ray.config_file import load_config

__all__ = ["Config", "SemiEvolError", "UserError", "load_classifier", "load_config", "run"]


def __getattr__(name: str) -> Any:
    # Late: whoever uses the selection alone needs neither pydantic nor YAML.
    if name == "Config":
        from semievol_ray.config import Config

        return Config
    if name == "load_config":
        from semievol_ray.config_file import load_config

        return load_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_classifier(folder: str | Path, *, trust_remote_code: bool = False) -> Classifier:
    """A classifier that a run left, from its folder on this machine. See Classifier.load."""
    from semievol_ray.classifiers import Classifier

    return Classifier.load(folder, trust_remote_code=trust_remote_code)


def run(config: Config | str | Path | Mapping[str, Any], **options: Any) -> Any:
    """Run, or continue, a whole run; returns its `results.Run`.

    `config` is a Config, a YAML file or a mapping; the options are those of `pipeline.run`.
    """
    # Late: the pipeline pulls in Ray.
    from semievol_ray import pipeline
    from semievol_ray.config import Config
    from semievol_ray.config_file import load_config
    from semievol_ray.results import Run

    checked = config if isinstance(config, Config) else load_config(config)
    return Run(pipeline.run(checked, **options).uri)
