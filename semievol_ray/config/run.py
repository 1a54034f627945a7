"""A whole run: its sections, its presets, and what must hold between them."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from semievol_ray.config.data import DataConfig, RetrievalConfig, TaskConfig
from semievol_ray.config.labelling import (
    CalibrationConfig,
    GenerationConfig,
    JustifyConfig,
    SelectionConfig,
)
from semievol_ray.config.models import (
    CLASSIFIERS,
    Collaborator,
    ModelConfig,
    check_thinking,
    thinking_of,
    warm_number,
    with_names,
)
from semievol_ray.config.section import Section
from semievol_ray.config.training import (
    SERVED_BY_VLLM,
    EvolveConfig,
    TrainingConfig,
    TuningConfig,
    WarmupConfig,
)
from semievol_ray.credentials import find_written_out, referred
from semievol_ray.touches import Added, Place
from semievol_ray.validation import merge, one_line

# What engines that are no language models cannot do of what a collaborator may ask.
_DRAWING = {"top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop",
            "guided"}  # fmt: skip
_LACKS = {"simulated": _DRAWING} | dict.fromkeys(CLASSIFIERS, _DRAWING | {"pmi", "shots", "top_p"})

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class IterationConfig(Section):
    """Rounds of generate, select, evolve."""

    rounds: int = Field(1, ge=1)
    mode: Literal["mine", "relabel"] = Field(
        "mine", description="mine: only rows not selected yet; relabel: every row anew"
    )
    guard: bool = Field(
        False,
        description="hold calibration.share of the labels out of every evolution, and roll a round "
        "back whose model is significantly worse on them than the one before; none follows it",
    )
    refit: bool = Field(
        False,
        description="let classifiers among the collaborators learn from what was selected before",
    )
    stop_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="let no round follow one, from the second on, that selects fewer than this "
        "share of the rows anew or with another answer; 0: all rounds are done",
    )


class Reference(Section):
    """A linear classifier on the labels: what a user would try first."""

    embedder: Literal["tfidf", "sentence-transformers", "model", "openai"] = "tfidf"
    model: str | None = Field(None, description="the embedder's model; null takes its usual one")
    base_url: Added[str | None] = Field(None, description="of an openai embedder's endpoint")
    api_key_env: Place[str] = Field("OPENAI_API_KEY", description="where its key is found")


class EvaluationConfig(Section):
    """How the models are compared on the test set."""

    shots: int = Field(0, ge=0)
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    max_tokens: int = Field(
        1000, gt=0, description="longest response; half the context window is the most in any case"
    )
    closed_answers: Literal["generate", "score", "pmi"] = Field(
        "generate",
        description="score: the most probable option counts, nothing is written; pmi: the one that "
        "the question makes likelier the most",
    )
    confidence: float = Field(0.95, gt=0, lt=1)
    references: Added[tuple[Reference, ...]] = Field(
        (), description="label tasks: linear classifiers on the labels, compared beside the models"
    )


class RayConfig(Section):
    """The Ray cluster."""

    address: str | None = Field(None, description="null starts a cluster on this machine")
    num_cpus: int | None = Field(None, gt=0)
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        description="as Ray has it, but env_vars are names: a list, or NAME: ${OTHER_NAME}",
    )
    wait_seconds: float = Field(
        1800, gt=0, description="how long CPUs and GPUs for a training are waited for"
    )

    @field_validator("runtime_env")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        names = value.get("env_vars", {})
        if isinstance(names, list | tuple):
            names = {str(name): f"${{{name}}}" for name in names}
        if not isinstance(names, dict) or not all(
            _VARIABLE.fullmatch(str(k)) and isinstance(v, str) and referred(v)
            for k, v in names.items()
        ):
            raise ValueError("env_vars is a list of names, or a mapping NAME: ${OTHER_NAME}")
        return value | {"env_vars": names} if names else value


class Config(Section):
    """A whole run."""

    run_dir: str
    continues: str | None = Field(
        None,
        description="a finished run, whose model labels here in the place of a warm-up: rows that "
        "it had are left out of data.unlabeled, and what it trusted is learnt from too",
    )
    preset: Literal["paper", "upstream"] = "paper"
    seed: int = Field(0, ge=0, lt=2**31)
    model: ModelConfig
    models: dict[str, ModelConfig] = Field(
        default_factory=dict, description="other models, by the name that collaborators use"
    )
    task: TaskConfig = TaskConfig()
    data: DataConfig
    retrieval: RetrievalConfig = RetrievalConfig()
    collaborators: tuple[Collaborator, ...] = Field(
        tuple(Collaborator(shots=n) for n in range(4)), validate_default=True
    )
    generation: GenerationConfig = GenerationConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tuning: TuningConfig = TuningConfig()
    justify: JustifyConfig = JustifyConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    warmup: WarmupConfig = WarmupConfig()
    evolve: EvolveConfig = EvolveConfig()
    iteration: IterationConfig = IterationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, values: Any) -> Any:
        """Before anything else, for what is said of another mistake may quote a value."""
        found = find_written_out(values) if isinstance(values, dict) else None
        if found is not None:
            raise ValueError(found)
        return values

    @field_validator("collaborators")
    @classmethod
    def _named(cls, value: tuple[Collaborator, ...]) -> tuple[Collaborator, ...]:
        if not value:
            raise ValueError("at least one collaborator is needed")
        return tuple(with_names(value))

    @field_validator("continues")
    @classmethod
    def _another(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value.rstrip("/") == str(info.data.get("run_dir")).rstrip("/"):
            raise ValueError("a run cannot continue itself; give run_dir another folder")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        most = max(c.shots for c in self.collaborators)
        if most > self.retrieval.k:
            raise ValueError(
                f"a collaborator asks for {most} shots, but retrieval.k is {self.retrieval.k}"
            )
        if self.evaluation.shots > self.retrieval.k:
            raise ValueError(
                f"evaluation.shots is {self.evaluation.shots}, but retrieval.k is "
                f"{self.retrieval.k}"
            )
        for collaborator in self.collaborators:
            self._check_asked(collaborator)
        if self.continues is not None and self.warmups > 1:
            raise ValueError(
                f"collaborators: warm-{self.warmups}: a run that continues another trains no "
                "warm-up; warm is the model that labels"
            )
        named = [name for name in self.models if warm_number(name)]
        if named:
            raise ValueError(f"models: {named[0]} is the name of a warm-up; choose another")
        asked = [self.model, *self.models.values()]
        unpriced = [model.name for model in asked if model.price is None]
        if self.generation.budget.cost is not None and unpriced:
            raise ValueError(f"generation.budget.cost needs the price of {', '.join(unpriced)}")
        warm, evolved = self.training_for("warmup"), self.training_for("evolve")
        if self.tuning.learning_rates is not None and warm.learning_rate != "auto":
            raise ValueError(
                "tuning.learning_rates are tried where training.learning_rate is auto, and it is "
                f"{warm.learning_rate:g}: leave one of them out"
            )
        for training in (warm, evolved):
            variant = training.lora.variant
            served = training.method == "full" or variant in SERVED_BY_VLLM
            if self.model.engine == "vllm" and not served:
                raise ValueError(
                    f"training.lora.variant: vllm serves lora and rslora, not {variant}; choose "
                    "one of them, or model.engine: transformers"
                )
        if self.evolve.start == "warm" and (warm.method, evolved.method) == ("full", "lora"):
            raise ValueError(
                "evolve.start: warm: an adapter over a warm model of full weights is no model of "
                "the base; train both stages with lora, or both with full"
            )
        return self

    @property
    def warmups(self) -> int:
        """How many warm-ups the collaborators ask for; one is there in any case."""
        return max([1, *(warm_number(c.model) for c in self.collaborators)])

    def classifier_of(self, collaborator: Collaborator) -> str | None:
        """The classifier that a collaborator is, by its own name or its model's; else None."""
        named = self.models.get(collaborator.model)
        engine = collaborator.model if named is None else named.engine
        return engine if engine in CLASSIFIERS else None

    def _check_asked(self, collaborator: Collaborator) -> None:
        """Raise ValueError for what the collaborator's model cannot be asked."""
        model = self.models.get(collaborator.model, self.model)
        kwargs, thought_tokens = thinking_of(collaborator, model)
        check_thinking(kwargs, thought_tokens)
        if collaborator.guided and thought_tokens and not warm_number(collaborator.model):
            raise ValueError(
                f"collaborator {collaborator.name}: guided, and {thought_tokens} thinking_tokens: "
                "what can write nothing but an option cannot think"
            )
        engine = self.classifier_of(collaborator) or model.engine
        usual = Collaborator.model_fields
        ignored = sorted(
            name
            for name in _LACKS.get(engine, ())
            if getattr(collaborator, name) != usual[name].default
        )
        if ignored:
            raise ValueError(f"the {engine} engine has no {', '.join(ignored)}")

    @property
    def tunes(self) -> bool:
        """Whether the warm-up's settings are left to the labels."""
        return self.training_for("warmup").is_tuned

    def training_for(self, stage: Literal["warmup", "evolve"]) -> TrainingConfig:
        """`training` with the stage's own overrides. Raises ValueError for an unknown one."""
        overrides = (self.warmup if stage == "warmup" else self.evolve).training
        merged = merge(self.training.model_dump(), overrides)
        try:
            return TrainingConfig.model_validate(merged)
        except ValidationError as error:
            raise ValueError(f"{stage}.training: {one_line(error, TrainingConfig)}") from None


PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2410.14745 as written: these are the defaults above.
    "paper": {},
    # What the authors' released code does.
    "upstream": {
        "retrieval": {"k": 0},
        "collaborators": [{"model": "warm", "shots": 0} for _ in range(4)],
        "generation": {"max_tokens": 1024},
        "justify": {"when": "disagreement", "temperature": 1.0, "max_tokens": 4096},
        "selection": {"policy": "upstream", "percentile": 30.0},
        "evaluation": {"temperature": 0.5},
        "training": {"held_out": 0.05},
        "evolve": {
            "start": "warm",
            "include_labeled": False,
            "training": {"learning_rate": 1e-6},
        },
    },
}
