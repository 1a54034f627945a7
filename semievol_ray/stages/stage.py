"""What a step of the algorithm says of itself. `pipeline.py` reads nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from semievol_ray.config import Config, ModelConfig, TrainingConfig
from semievol_ray.engines import REPLIES_VERSION, resolve_engine
from semievol_ray.model_files import model_identity
from semievol_ray.retrieval import TEXTS_VERSION
from semievol_ray.store import layout
from semievol_ray.tasks import PROMPTS_VERSION
from semievol_ray.touches import of_result

if TYPE_CHECKING:
    from semievol_ray.stages.along import Along
    from semievol_ray.stages.context import Context


@dataclass(frozen=True)
class Outcome:
    """What a stage made: tables with their rows, other files, and figures worth keeping."""

    outputs: dict[str, int]
    statistics: dict[str, Any]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One step of the algorithm.

    `name` is its file's; a stage of a round is known as `round-<n>/<name>` to the run. `settings`
    are all that its result depends on besides its inputs, `inputs` the full names of the stages
    whose files it reads, and `writes` the names, within its own folder, of what it makes there.
    """

    name: str
    run: Callable[[Context, int], Outcome]
    settings: Callable[[Config, int], dict[str, Any]]
    inputs: Callable[[Config, int], Sequence[str]]
    writes: tuple[str, ...]
    in_round: bool = True
    # Whether half-done work is gone on with; if not, it is dropped and begun anew.
    continues: bool = True
    # What it works with: this process alone, Ray tasks, engines, or a training.
    works_with: Literal["nothing", "tasks", "engines", "training"] = "tasks"
    # Whether it is part of a run with this config.
    wanted: Callable[[Config], bool] = field(default=lambda config: True)
    # Whether it follows all the rounds, and is known by the last of them.
    follows_rounds: bool = False
    # Whether, by the statistics of a round's manifest, no round follows that one.
    ends: Callable[[Mapping[str, Any]], bool] = field(default=lambda statistics: False)
    # A later stage of the round, part of whose work this one's replicas do: its name.
    prepares: str | None = None
    # How the replicas of another stage can do this one's work.
    along: Callable[[Context, int], Along] | None = None

    def full_name(self, round_number: int) -> str:
        """Its name in a run."""
        return layout.round_stage(round_number, self.name) if self.in_round else self.name


def task_settings(config: Config) -> dict[str, Any]:
    """The task, and the code that makes its prompts."""
    return {"task": of_result(config.task), "code": {"prompts": PROMPTS_VERSION}}


def trained_settings(config: Config, training: TrainingConfig) -> dict[str, Any]:
    """What any fine-tuning depends on: the base model's content, the task, the training."""
    model = {
        "content": model_identity(config.model),
        "dtype": config.model.dtype,
        "trust_remote_code": config.model.trust_remote_code,
        "chat_template_kwargs": config.model.chat_template_kwargs,
    }
    settings = of_result(training)
    # What is left open is the machines' matter, and nothing of a fingerprint.
    settings["precision"] = training.number_format
    common = {"seed": config.seed, "model": model, "training": settings}
    return common | task_settings(config)


def retrieval_settings(config: Config) -> dict[str, Any]:
    """What any stage that embeds examples depends on besides these."""
    return of_result(config.retrieval) | texts_settings(config)


def texts_settings(config: Config) -> dict[str, Any]:
    """Which text of an example is embedded; nothing without contexts: it is the question then."""
    return {} if config.data.columns.context is None else {"texts": TEXTS_VERSION}


def answering_settings(config: Config) -> dict[str, Any]:
    """What any stage that asks the base model depends on: its content and its engine too."""
    common = {"seed": config.seed, "model": engine_settings(config.model)}
    code = {"prompts": PROMPTS_VERSION, "replies": REPLIES_VERSION}
    return common | task_settings(config) | {"code": code}


def tested_settings(config: Config) -> dict[str, Any]:
    """What a model's answers to examples with known answers depend on besides the model."""
    asked = of_result(config.evaluation, without=("confidence", "references"))
    return answering_settings(config) | {"evaluation": asked}


def engine_settings(model: ModelConfig) -> dict[str, Any]:
    """A model as it answers: what it holds, and which engine runs it how."""
    return of_result(resolve_engine(model)) | {"content": model_identity(model)}
