"""Every setting of a run, and its one default.

Frozen pydantic models; an unknown key is refused with the nearest known one named. A preset is a
set of overrides that lies between these defaults and what the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from semievol_ray.credentials import find_written_out, referred
from semievol_ray.touches import Form, Place, Speed
from semievol_ray.validation import merge, one_line

# Of peft's adapters those that change weights in place: a test trains, stores and merges each.
# Adapters that add tokens to the prompt, or need calls between steps, are not among them.
AdapterVariant = Literal[
    "lora", "rslora", "dora", "boft", "c3a", "delora", "fourierft", "gralora", "hira", "hra",
    "ia3", "ln_tuning", "loha", "lokr", "miss", "oft", "randlora", "shira", "vera", "waveft",
]  # fmt: skip
# peft 0.21 looks into weights that ZeRO-3 has partitioned away when it builds these.
_NOT_WITH_ZERO_3 = {"delora", "ln_tuning", "loha"}


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# A limit in tokens.
Tokens = Annotated[int, Field(gt=0)] | Literal["auto"]

# One path, glob or URI, or several.
Locations = str | tuple[str, ...]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )


class Price(_Section):
    """What a million tokens cost, in any currency."""

    prompt: float = Field(ge=0)
    response: float = Field(ge=0)


class ModelConfig(_Section):
    """The base model and the engine that runs it."""

    name: Place[str] = Field(
        description="a local folder, a hub id, or the model name at an endpoint; what counts is "
        "what the folder holds"
    )
    engine: Literal["auto", "vllm", "transformers", "openai", "simulated", "probe"] = Field(
        "auto",
        description="auto: vllm where it is installed, else transformers; probe: no LLM, but "
        "logistic regression on the labels, for collaborators alone; its engine_options are "
        "those of `retrieval`",
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

    @model_validator(mode="after")
    def _thinks_as_told(self) -> ModelConfig:
        _check_thinking(self.chat_template_kwargs, self.thinking_tokens)
        return self


class TaskConfig(_Section):
    """What a question, an answer and a correct answer are."""

    preset: str | None = None
    kind: Literal["multiple_choice", "label", "numeric", "text"] | None = None
    instruction: str | None = Field(None, description="what the model is told first")
    question_template: str | None = Field(None, description="Jinja2 over an example's columns")
    answer_pattern: str | None = Field(
        None, description="regular expression; its last match's last group is the answer"
    )
    labels: tuple[str, ...] | None = Field(
        None, description="label tasks: the closed set; null reads it from the labelled answers"
    )
    relative_tolerance: float | None = Field(None, ge=0)
    decimal_mark: Literal[".", ","] = Field(
        ".", description="numeric tasks: what parts the whole of a number from its fraction"
    )
    word_answers: bool | None = Field(
        None,
        description="numeric tasks: a true answer may be a word, which no response is right about; "
        "null: as the preset has it, else such rows are quarantined",
    )
    first_option_number: int | None = Field(
        None,
        ge=0,
        le=1,
        description="what an answer given as a number calls the first option; null: as all the "
        "labelled and test rows have it",
    )
    use_chat_template: Literal["auto", "always", "never"] = "auto"
    day: str | None = Field(
        None,
        description="YYYY-MM-DD, what chat templates that tell a model the date write; null: the "
        "day on which the run read its data",
    )

    @field_validator("day")
    @classmethod
    def _is_day(cls, value: str | None) -> str | None:
        if value is not None:
            date.fromisoformat(value)
        return value


class Columns(_Section):
    """Which column of the user's files holds what; `context.contexts` is a field inside one."""

    id: str | None = None
    question: str = "question"
    answer: str = "answer"
    options: str | None = None
    context: str | None = None
    subject: str | None = None


class DataConfig(_Section):
    """Where the examples are: one location, or a list of them.

    A location is a path, a URI, a folder (its files, and those of its partitions `name=value/`,
    which are columns), a glob (`*` stays in a folder, `**` does not), or
    `hf://dataset[:config][@revision]/split`. None may lie in the run directory.
    """

    labeled: Place[Locations]
    unlabeled: Place[Locations]
    test: Place[Locations | None] = None
    columns: Columns = Columns()
    answers: Literal["auto", "mark", "text"] = Field(
        "auto",
        description="how answers name an option: by letter or number, or by its text; auto: as "
        "all the labelled and test rows have it",
    )
    shard_rows: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="unit of work; auto: by the size of the corpus and replicas.max"
    )
    max_bad_rows: Place[int] = Field(
        100, ge=0, description="more quarantined rows than this stop the run"
    )
    max_unlabeled_rows: int | None = Field(None, gt=0)

    @field_validator("labeled", "unlabeled", "test", mode="before")
    @classmethod
    def _locations(cls, value: Any) -> Any:
        several = [value] if isinstance(value, str) else value
        is_list = isinstance(several, list | tuple) and len(several) > 0
        if value is not None and not (is_list and all(isinstance(x, str) and x for x in several)):
            raise ValueError("expected a path, or a list of paths")
        return value


class RetrievalConfig(_Section):
    """Which labelled examples are shown as demonstrations."""

    embedder: Literal["tfidf", "sentence-transformers", "model", "openai"] = "tfidf"
    model: str | None = Field(None, description="the embedder's model; null takes its usual one")
    k: int = Field(3, ge=0, description="demonstrations kept for each example")
    batch_rows: Speed[int] = Field(256, gt=0)
    exact_below_rows: int = Field(100_000, gt=0, description="larger label sets use an IVF index")
    base_url: str | None = None
    api_key_env: Place[str] = "OPENAI_API_KEY"


class Collaborator(_Section):
    """One voter: a model, how many demonstrations it sees, and how it samples."""

    model: str = Field(
        "warm",
        description="base, warm, probe (a classifier on the labels, over retrieval's embedder), or "
        "another model's path or name",
    )
    shots: int = Field(0, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.+-]+$")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="null: its model's")
    thinking_tokens: int | None = Field(None, ge=0, description="null: its model's")

    @model_validator(mode="after")
    def _as_trained(self) -> Collaborator:
        if self.model == "warm" and (self.thinking_tokens or self.chat_template_kwargs is not None):
            raise ValueError(
                "model: warm: what the run trains is asked as it was trained, without a thought: "
                "thinking_tokens and chat_template_kwargs are for other models (of all: "
                "model.chat_template_kwargs)"
            )
        return self


class Replicas(_Section):
    """Bounds of an autoscaling pool."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"replicas.max ({self.max}) is smaller than replicas.min ({self.min})")
        return self


class Budget(_Section):
    """What a run's pseudo-responses may come to, prompts included; null is no limit."""

    tokens: int | None = Field(None, gt=0)
    cost: float | None = Field(None, gt=0, description="at the models' prices, in their currency")


class GenerationConfig(_Section):
    """How pseudo-responses are written."""

    max_tokens: Tokens = Field(
        "auto",
        description="longest response; auto: twice the labels' longest answer, 16 at least, and "
        "256 more for models that this run did not train",
    )
    batch_rows: Speed[int] = Field(64, gt=0, description="rows that an engine call holds")
    replicas: Speed[Replicas] = Replicas()
    cpus_per_replica: Speed[float] = Field(1, ge=0)
    gpus_per_replica: Speed[float | None] = Field(
        None,
        ge=0,
        description="null: one where the cluster has, or may scale to, one; below 1: that share of "
        "a GPU's memory",
    )
    tensor_parallel: Speed[int] = Field(1, ge=1)
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
        parts, gpus = self.tensor_parallel * self.pipeline_parallel, self.gpus_per_replica
        if parts > 1 and gpus is not None and gpus < parts:
            raise ValueError(
                f"gpus_per_replica ({gpus:g}) is less than tensor_parallel x pipeline_parallel "
                f"({parts}): each part has a GPU of its own; leave gpus_per_replica out"
            )
        return self


class JustifyConfig(_Section):
    """Whether the warm model is shown the collaborators' answers and decides."""

    when: Literal["always", "disagreement", "never"] = "always"
    temperature: float = Field(0.0, ge=0)
    max_tokens: Tokens = Field("auto", description="longest response; auto: as in generation")


class SelectionConfig(_Section):
    """Which pseudo-answers are trusted."""

    policy: Literal["paper", "upstream", "balanced"] = "paper"
    percentile: float | tuple[float, ...] = Field(
        50.0, description="share that is kept, in percent; a list gives one for each round"
    )
    percentile_over: Literal["unlabeled", "labeled"] = "unlabeled"
    align_prior: bool = Field(True, description="balanced: align to the labels' class prior")

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


class LoraConfig(_Section):
    """Shape of the peft adapter: LoRA, or another that peft has by name.

    vLLM serves lora and rslora; the others once they are merged (`semievol merge`).
    """

    rank: int = Field(16, gt=0, description="of lora, rslora and dora, as alpha and dropout are")
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    variant: AdapterVariant = "lora"
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the adapter's config in peft, by their names there"
    )


class TrainingConfig(_Section):
    """One fine-tuning: hyper-parameters, ZeRO, workers."""

    method: Literal["lora", "full"] = "lora"
    lora: LoraConfig = LoraConfig()
    learning_rate: float = Field(1e-4, gt=0)
    epochs: float = Field(2.0, gt=0)
    global_batch_size: int = Field(8, gt=0, description="examples a step, over all the workers")
    micro_batch_size: Speed[int] = Field(4, gt=0, description="examples a forward pass, at most")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(
        1024, gt=1, description="tokens of a prompt, cut in its middle, and its answer, never cut"
    )
    max_dropped: Place[float] = Field(
        0.05, ge=0, lt=1, description="a larger share of answers too long for it stops the run"
    )
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    packing: Form[bool] = True
    gradient_checkpointing: Speed[bool] = False
    zero_stage: Form[Literal[0, 1, 2, 3]] = 2
    offload_optimizer: Form[Literal["none", "cpu", "nvme"]] = "none"
    offload_parameters: Form[Literal["none", "cpu", "nvme"]] = "none"
    nvme_path: Place[str | None] = None
    workers: Speed[int] = Field(1, ge=1)
    min_workers: Speed[int | None] = Field(
        None, ge=1, description="elastic: go on with as few as these when there are no more"
    )
    cpus_per_worker: Speed[float] = Field(1, gt=0)
    gpus_per_worker: Speed[float | None] = Field(
        None, ge=0, description="null: one where the cluster has, or may scale to, one"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share of the labels kept for validation")
    early_stopping_patience: int | None = Field(None, ge=1)
    checkpoint_every_steps: Speed[int] = Field(200, gt=0)
    max_failures: Speed[int] = Field(2, ge=0, description="worker deaths that a training survives")
    timeout_seconds: Speed[float] = Field(
        1800, gt=0, description="a worker that keeps the others waiting longer ends the training"
    )
    trackers: Place[tuple[Literal["tensorboard", "wandb", "mlflow"], ...]] = ("tensorboard",)

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.global_batch_size % self.workers:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) is not a multiple of "
                f"workers ({self.workers})"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) exceeds workers ({self.workers})")
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage: 3")
        if self.method == "lora" and self.zero_stage == 3 and self.lora.variant in _NOT_WITH_ZERO_3:
            raise ValueError(f"lora.variant: {self.lora.variant} needs zero_stage: 2 or less")
        if "nvme" in (self.offload_optimizer, self.offload_parameters) and not self.nvme_path:
            raise ValueError("off-load to nvme needs nvme_path")
        return self


class EvolveConfig(_Section):
    """What the evolved model starts from and learns from."""

    start: Literal["base", "warm"] = "base"
    include_labeled: bool = Field(True, description="Eq. 9; Algorithm 1 leaves them out")
    soft_targets: bool = Field(
        False, description="policy balanced: train on the distribution over the options"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="overrides of `training` for this stage"
    )


class WarmupConfig(_Section):
    """The first fine-tuning, on the labels alone."""

    training: dict[str, Any] = Field(
        default_factory=dict, description="overrides of `training` for this stage"
    )


class IterationConfig(_Section):
    """Rounds of generate, select, evolve."""

    rounds: int = Field(1, ge=1)
    mode: Literal["mine", "relabel"] = Field(
        "mine", description="mine: only rows not selected yet; relabel: every row anew"
    )


class EvaluationConfig(_Section):
    """How the models are compared on the test set."""

    shots: int = Field(0, ge=0)
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    max_tokens: int = Field(
        1000, gt=0, description="longest response; half the context window is the most in any case"
    )
    closed_answers: Literal["generate", "score"] = Field(
        "generate", description="score: the most probable option counts, nothing is written"
    )
    confidence: float = Field(0.95, gt=0, lt=1)


class RayConfig(_Section):
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


class Config(_Section):
    """A whole run."""

    run_dir: str
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
        return tuple(_with_names(value))

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
            of_model = self.models.get(collaborator.model, self.model)
            _check_thinking(*thinking_of(collaborator, of_model))
        asked = [self.model, *self.models.values()]
        unpriced = [model.name for model in asked if model.price is None]
        if self.generation.budget.cost is not None and unpriced:
            raise ValueError(f"generation.budget.cost needs the price of {', '.join(unpriced)}")
        warm, evolved = self.training_for("warmup"), self.training_for("evolve")
        for training in (warm, evolved):
            variant = training.lora.variant
            served = training.method == "full" or variant in ("lora", "rslora")
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


def thinking_of(collaborator: Collaborator, model: ModelConfig) -> tuple[dict[str, Any], int]:
    """A collaborator's variables of the chat template, and its room for a thought."""
    kwargs, tokens = collaborator.chat_template_kwargs, collaborator.thinking_tokens
    return (
        model.chat_template_kwargs if kwargs is None else kwargs,
        model.thinking_tokens if tokens is None else tokens,
    )


def _check_thinking(kwargs: dict[str, Any], tokens: int) -> None:
    asked = kwargs.get("enable_thinking")
    if asked is not None and asked != (tokens > 0):
        raise ValueError(
            f"chat_template_kwargs.enable_thinking is {str(asked).lower()}, and thinking_tokens is "
            f"{tokens}: a thought needs room, and only a thought does"
        )


def _with_names(collaborators: tuple[Collaborator, ...]) -> Iterator[Collaborator]:
    taken: set[str] = set()
    for collaborator in collaborators:
        stem = collaborator.name
        if stem is None:
            model = collaborator.model.rstrip("/").split("/")[-1]
            model = "".join(c if c.isalnum() or c in "_.+-" else "-" for c in model)
            stem = f"{model}-{collaborator.shots}shot"
        elif stem in taken:
            raise ValueError(f"two collaborators are named {stem!r}")
        name, copy = stem, 2
        while name in taken:
            name, copy = f"{stem}-{copy}", copy + 1
        taken.add(name)
        yield collaborator.model_copy(update={"name": name})
