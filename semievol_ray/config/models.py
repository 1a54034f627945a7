"""Models, and the collaborators that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from semievol_ray.config.section import Section
from semievol_ray.touches import Added, Place

# Engines by their names: where the class is, which only a replica imports.
ENGINES = {
    "vllm": "semievol_ray.engines.vllm_engine:VllmEngine",
    "transformers": "semievol_ray.engines.transformers_engine:TransformersEngine",
    "openai": "semievol_ray.engines.openai_engine:OpenAIEngine",
    "simulated": "semievol_ray.engines.simulated_engine:SimulatedEngine",
    "probe": "semievol_ray.engines.classifier_engine:ClassifierEngine",
    "neighbours": "semievol_ray.engines.classifier_engine:ClassifierEngine",
    "propagation": "semievol_ray.engines.classifier_engine:ClassifierEngine",
}
# Those that are no language models; collaborators may have their names.
CLASSIFIERS = ("probe", "neighbours", "propagation")
# The run's own warm-ups.
_WARM = re.compile(r"warm(?:-([2-9]|[1-9][0-9]+))?")


class Price(Section):
    """What a million tokens cost, in any currency."""

    prompt: float = Field(ge=0)
    response: float = Field(ge=0)


class ModelConfig(Section):
    """The base model and the engine that runs it."""

    name: Place[str] = Field(
        description="a local folder, a hub id, or the model name at an endpoint; what counts is "
        "what the folder holds"
    )
    engine: str = Field(
        "auto",
        json_schema_extra={"enum": ["auto", *ENGINES]},
        description="auto: vllm where it is installed, else transformers; no LLM, and for "
        "collaborators alone: probe (logistic regression on the labels), neighbours (votes of the "
        "nearest of them) and propagation (labels spread over the corpus, from each question to "
        "those near it); their engine_options are those of `retrieval`",
    )
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(
        None,
        gt=0,
        description="context window, in tokens; null: the model's own, of vllm as much of it as "
        "the longest prompt and response need",
    )
    trust_remote_code: bool = False
    engine_options: dict[str, Any] = Field(
        default_factory=dict,
        description="passed to the engine as they are, but for secrets: ${NAME} is a variable's",
    )
    base_url: str | None = Field(None, description="openai engine: http(s)://host/v1")
    api_key_env: Place[str] = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key"
    )
    price: Place[Price | None] = Field(None, description="needed for generation.budget.cost")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="variables of the chat template, as its model card names them",
    )
    thinking_tokens: int = Field(
        0, ge=0, description="room for a thought before the answer; 0: it answers at once. A model "
        "that the run trains always does, as it is taught to",
    )  # fmt: skip

    @property
    def is_local(self) -> bool:
        """Whether it is a language model whose files are loaded here."""
        return self.engine not in ("openai", "simulated", *CLASSIFIERS)

    @property
    def is_classifier(self) -> bool:
        """Whether it is fitted to the labels by the engine itself."""
        return self.engine in CLASSIFIERS

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        known = ("auto", *ENGINES)
        if value not in known:
            raise ValueError(f"unknown engine {value!r}; known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _thinks_as_told(self) -> ModelConfig:
        check_thinking(self.chat_template_kwargs, self.thinking_tokens)
        return self


class Collaborator(Section):
    """One voter: a model, how many demonstrations it sees, and how it samples."""

    model: str = Field(
        "warm",
        description="base, warm, probe, neighbours or propagation (classifiers on the labels, over "
        "retrieval's embedder), or another model's path or name; warm-2, warm-3 … are warm-ups of "
        "their own, each under another seed",
    )
    shots: int = Field(0, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, gt=0)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="a response ends before the first of these texts"
    )
    guided: bool = Field(
        False,
        description="closed tasks: nothing but an option can be written; logprobs stay the "
        "model's own, over all that it could have written",
    )
    pmi: Added[bool] = Field(
        False,
        description="closed tasks: the options' probabilities by how much likelier the question "
        "makes each, for models that were not trained to say them",
    )
    n: int = Field(1, ge=1, description="samples of each prompt; each is a voter of its own")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="null: its model's")
    thinking_tokens: int | None = Field(None, ge=0, description="null: its model's")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.+-]+$")

    @model_validator(mode="after")
    def _samples_differ(self) -> Collaborator:
        if self.n > 1 and self.temperature == 0:
            raise ValueError(f"n ({self.n}) samples at temperature 0 are all the same")
        return self

    @model_validator(mode="after")
    def _as_trained(self) -> Collaborator:
        if warm_number(self.model) and (
            self.thinking_tokens or self.chat_template_kwargs is not None
        ):
            raise ValueError(
                "model: warm: what the run trains is asked as it was trained, without a thought: "
                "thinking_tokens and chat_template_kwargs are for other models (of all: "
                "model.chat_template_kwargs)"
            )
        return self


def warm_number(model: str) -> int:
    """Which of a run's warm-ups a model's name means, from 1; 0: none."""
    found = _WARM.fullmatch(model)
    return int(found[1] or 1) if found else 0


def thinking_of(collaborator: Collaborator, model: ModelConfig) -> tuple[dict[str, Any], int]:
    """A collaborator's variables of the chat template, and its room for a thought."""
    kwargs, tokens = collaborator.chat_template_kwargs, collaborator.thinking_tokens
    return (
        model.chat_template_kwargs if kwargs is None else kwargs,
        model.thinking_tokens if tokens is None else tokens,
    )


def check_thinking(kwargs: dict[str, Any], tokens: int) -> None:
    """Raise ValueError where the template is told otherwise than the limit."""
    asked = kwargs.get("enable_thinking")
    if asked is not None and asked != (tokens > 0):
        raise ValueError(
            f"chat_template_kwargs.enable_thinking is {str(asked).lower()}, and thinking_tokens is "
            f"{tokens}: a thought needs room, and only a thought does"
        )


def with_names(collaborators: tuple[Collaborator, ...]) -> Iterator[Collaborator]:
    """Each with a name of its own. Raises ValueError where two were given the same."""
    taken: set[str] = set()
    for collaborator in collaborators:
        stem = collaborator.name
        if stem is None:
            model = collaborator.model.rstrip("/").split("/")[-1]
            model = "".join(c if c.isalnum() or c in "_.+-" else "-" for c in model)
            stem = f"{model}-{collaborator.shots}shot"
        elif stem in taken:
            raise ValueError(f"two collaborators are named {stem!r}")
        for _ in range(collaborator.n):
            name, copy = stem, 2
            while name in taken:
                name, copy = f"{stem}-{copy}", copy + 1
            taken.add(name)
            yield collaborator.model_copy(update={"name": name, "n": 1})
