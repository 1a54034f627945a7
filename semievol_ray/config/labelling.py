"""Pseudo-answers: how they are written, justified and selected."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from semievol_ray.config.section import Auto, Section, Tokens
from semievol_ray.selection.policies import POLICIES
from semievol_ray.touches import Place, Speed


class Replicas(Section):
    """Bounds of an autoscaling pool."""

    min: int = Field(1, ge=1)
    max: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto",
        description="auto: as many as the GPUs (an autoscaler's too), or the CPUs that are there "
        "and their memory, hold and the shards keep at work; one for an endpoint",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max != "auto" and self.max < self.min:
            raise ValueError(f"replicas.max ({self.max}) is smaller than replicas.min ({self.min})")
        return self


class Budget(Section):
    """What a run's pseudo-responses may come to, prompts included; null is no limit."""

    tokens: int | None = Field(None, gt=0)
    cost: float | None = Field(None, gt=0, description="at the models' prices, in their currency")


class GenerationConfig(Section):
    """How pseudo-responses are written."""

    max_tokens: Tokens = Field(
        "auto",
        description="longest response; auto: twice the labels' longest answer, 16 at least, and "
        "256 more for models that this run did not train",
    )
    batch_rows: Speed[int] = Field(64, gt=0, description="rows that an engine call holds")
    replicas: Speed[Replicas] = Replicas()
    cpus_per_replica: Speed[Annotated[float, Field(ge=0)] | Auto] = Field(
        "auto", description="auto: on CPUs what there is, shared by the replicas; one beside a GPU"
    )
    gpus_per_replica: Speed[float | None] = Field(
        None,
        ge=0,
        description="null: one where the cluster has, or may scale to, one; below 1: that share of "
        "a GPU's memory",
    )
    tensor_parallel: Speed[Annotated[int, Field(ge=1)] | Auto] = Field(
        "auto", description="auto: as many GPUs as the weights need, 1, 2, 4 or 8"
    )
    pipeline_parallel: Speed[int] = Field(1, ge=1)
    max_concurrency: Speed[int] = Field(
        32, gt=0, description="openai engine: requests in flight, for each replica"
    )
    requests_per_minute: Speed[float | None] = Field(
        None, gt=0, description="openai engine: of all the replicas together"
    )
    budget: Place[Budget] = Budget()
    max_restarts: Speed[int] = Field(
        3, ge=0, description="deaths in a row, for each replica, that end the run"
    )
    score_options: bool = Field(
        True, description="closed tasks: log P of every option in every response row"
    )
    stall_seconds: Speed[float] = Field(
        1800, gt=0, description="without a reply, or a replica that starts, for so long: an error"
    )
    request_timeout_seconds: Speed[float] = Field(120, gt=0)

    @model_validator(mode="after")
    def _has_its_gpus(self) -> GenerationConfig:
        tensor_parallel = 1 if self.tensor_parallel == "auto" else self.tensor_parallel
        parts, gpus = tensor_parallel * self.pipeline_parallel, self.gpus_per_replica
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_replica ({gpus:g}): above 1 it is a whole number")
        if parts > 1 and gpus is not None and gpus < parts:
            raise ValueError(
                f"gpus_per_replica ({gpus:g}) is less than tensor_parallel x pipeline_parallel "
                f"({parts}): each part has a GPU of its own; leave gpus_per_replica out"
            )
        return self


class CalibrationConfig(Section):
    """Labels that the voters are judged by, for policies that weigh them or promise an error.

    The warm model is fine-tuned once more without them: it costs `1 - share` of the warm-up. All
    labels are trained on in the warm-up itself and in the evolution.
    """

    share: float = Field(0.2, gt=0, lt=1, description="of the labels of each class")


class JustifyConfig(Section):
    """Whether the warm model is shown the collaborators' answers and decides."""

    when: Literal["always", "disagreement", "never"] = "always"
    temperature: float = Field(0.0, ge=0)
    max_tokens: Tokens = Field("auto", description="longest response; auto: as in generation")


class SelectionConfig(Section):
    """Which pseudo-answers are trusted."""

    policy: str = Field(
        "paper",
        description=f"one of {', '.join(POLICIES)}",
        json_schema_extra={"enum": [*POLICIES]},
    )
    percentile: float | tuple[float, ...] = Field(
        50.0, description="share that is kept, in percent; a list gives one for each round"
    )
    percentile_over: Literal["unlabeled", "labeled"] = "unlabeled"
    align_prior: bool | Auto = Field(
        "auto",
        description="balanced, stacked: align to the labels' shares of the classes; auto: unless "
        "as many of each class were chosen, which tells nothing of the corpus",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="of the policy: risk has alpha (the error that is allowed: 0.05) and delta "
        "(how likely more is: 0.1); balanced and stacked have prior: corpus, where its classes "
        "have other shares than the labels'",
    )

    @model_validator(mode="after")
    def _known(self) -> SelectionConfig:
        if self.policy not in POLICIES:
            raise ValueError(
                f"policy: unknown policy {self.policy!r}; known: {', '.join(POLICIES)}"
            )
        if self.percentile_over == "labeled" and not POLICIES[self.policy].labels_may_decide:
            raise ValueError(
                "percentile_over: labeled is of policies that rank by entropy, as paper does; "
                f"{self.policy} does not"
            )
        unknown = sorted(set(self.options) - POLICIES[self.policy].options)
        if unknown:
            raise ValueError(f"options: the policy {self.policy} has no {', '.join(unknown)}")
        return self

    @property
    def calibrates(self) -> bool:
        """Whether the voters have to answer labels that they were not trained on."""
        return POLICIES[self.policy].calibrates

    @field_validator("percentile")
    @classmethod
    def _in_range(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(0 < v <= 100 for v in values):
            raise ValueError("a percentile lies in (0, 100]")
        return value

    def percentile_of(self, round_number: int) -> float:
        """The share kept in a round (1-based); the last of a list serves the later rounds too."""
        if isinstance(self.percentile, tuple):
            return self.percentile[min(round_number, len(self.percentile)) - 1]
        return self.percentile
