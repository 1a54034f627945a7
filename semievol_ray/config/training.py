"""The two fine-tunings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from semievol_ray.config.section import Auto, Section
from semievol_ray.touches import Added, Place, Speed

# Of peft's adapters those that change weights in place: a test trains, stores and merges each.
# Adapters that add tokens to the prompt, or need calls between steps, are not among them.
AdapterVariant = Literal[
    "lora", "rslora", "dora", "boft", "c3a", "delora", "fourierft", "gralora", "hira", "hra",
    "ia3", "ln_tuning", "loha", "lokr", "miss", "oft", "randlora", "shira", "vera", "waveft",
]  # fmt: skip
SERVED_BY_VLLM = ("lora", "rslora")
# Of LoRA's starts in peft those that leave the base as it is, and need nothing but it. Under PiSSA,
# OLoRA, LoftQ, CorDA and LoRA-GA an adapter fits a changed base, which no file holds; EVA without
# its passes over the data is the usual start; MiCA freezes a half, and what is frozen is not kept.
_STARTS = ("gaussian", "orthogonal")
# peft 0.21 looks into weights that ZeRO-3 has partitioned away when it builds these.
_NOT_WITH_ZERO_3 = {"delora", "ln_tuning", "loha"}

Precision = Literal["bf16", "fp16", "fp32"]
# Of torch those that step each element by itself, as ZeRO's flat partitions need; of bitsandbytes
# those that keep their state in 8 bits.
Optimizer = Literal[
    "AdamW", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD",
    "AdamW8bit", "Lion8bit",
]  # fmt: skip


class LoraConfig(Section):
    """Shape of the peft adapter: LoRA, or another that peft has by name.

    vLLM serves SERVED_BY_VLLM; the others once they are merged (`semievol merge`).
    """

    rank: int = Field(16, gt=0, description="of lora, rslora and dora, as alpha and dropout are")
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    plus_ratio: float = Field(
        1.0, gt=0, description="LoRA+: B matrices learn at this many times the rate"
    )
    target_modules: str | tuple[str, ...] = "all-linear"
    variant: AdapterVariant = "lora"
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the adapter's config in peft, by their names there"
    )

    @property
    def changed_base(self) -> str | None:
        """What is to be said of a start that makes no adapter of the stored base; null of others.

        To be asked where something is trained: a config that is only read may be an old run's.
        """
        start = self.options.get("init_lora_weights")
        if not isinstance(start, str) or start.lower() in _STARTS:
            return None
        return (
            f"training.lora.options: init_lora_weights: {start} gives no adapter of the stored "
            f"base; choose true, {' or '.join(_STARTS)}"
        )


class TrainingConfig(Section):
    """One fine-tuning: hyper-parameters, ZeRO, workers."""

    method: Literal["lora", "full"] = "lora"
    lora: LoraConfig = LoraConfig()
    learning_rate: Annotated[float, Field(gt=0)] | Auto = Field(
        1e-4, description="auto: by what labels that are held out say (section tuning)"
    )
    epochs: Annotated[float, Field(gt=0)] | Auto = Field(
        2.0,
        description="auto: by the same labels; of the evolution as many steps as these, and "
        "tuning.first_epochs at least",
    )
    global_batch_size: int = Field(8, gt=0, description="examples a step, over all the workers")
    micro_batch_size: Speed[Annotated[int, Field(gt=0)] | Auto] = Field(
        "auto",
        description="examples a forward pass, at most; auto: as many of a worker's share of the "
        "batch as its memory holds the activations of",
    )
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0, description="in place of warmup_ratio")
    min_learning_rate: float = Field(0.0, ge=0, description="where the schedule ends")
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Added[Optimizer] = Field(
        "AdamW", description="by its name in torch, or in bitsandbytes those in 8 bits"
    )
    optimizer_options: Added[dict[str, Any]] = Field(
        default_factory=dict, description="more of its settings, by their names there"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="of optimizers that have any")
    epsilon: float = Field(1e-8, gt=0, description="of optimizers that have it")
    loss: Literal["nll", "dft"] = Field(
        "nll",
        description="dft: each token's loss times its own probability, taken as a constant "
        "(arXiv 2508.05629)",
    )
    neftune_alpha: Added[float] = Field(
        0.0, ge=0, description="NEFTune: noise on the embeddings (arXiv 2310.05914); 5 is usual"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(
        1024, gt=1, description="tokens of a prompt, cut in its middle, and its answer, never cut"
    )
    max_dropped: Place[float] = Field(
        0.05, ge=0, lt=1, description="a larger share of answers too long for it stops the run"
    )
    precision: Precision | Auto = Field(
        "auto", description="auto: bf16, and fp16 where a GPU is of a kind without bf16"
    )
    quantization: Added[Literal["none", "4bit", "8bit"]] = Field(
        "none", description="QLoRA: what the frozen base is held in, by bitsandbytes"
    )
    packing: Speed[bool] = True
    gradient_checkpointing: Speed[bool] = False
    zero_stage: Speed[Literal[0, 1, 2, 3]] = 2
    offload_optimizer: Speed[Literal["none", "cpu", "nvme"]] = "none"
    offload_parameters: Speed[Literal["none", "cpu", "nvme"]] = "none"
    nvme_path: Place[str | None] = None
    workers: Speed[Annotated[int, Field(ge=1)] | Auto] = Field(
        "auto", description="auto: one for each GPU, as far as the batch can be shared; else one"
    )
    min_workers: Speed[int | None] = Field(
        None, ge=1, description="elastic: go on with as few as these when there are no more"
    )
    cpus_per_worker: Speed[Annotated[float, Field(gt=0)] | Auto] = Field(
        "auto", description="auto: of a lone worker on CPUs those of a node; else one"
    )
    gpus_per_worker: Speed[float | None] = Field(
        None, ge=0, description="null: one where the cluster has, or may scale to, one"
    )
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the examples kept for validation; in the evolution they are labels "
        "and pseudo-answers",
    )
    evaluate_every_steps: Added[int | None] = Field(
        None, ge=1, description="how often the held-out labels are asked; null: after each epoch"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="evaluations without gain that end it; the best weights are kept"
    )
    best_by: Added[Literal["loss", "exact_match"]] = Field(
        "loss",
        description="what the best weights are best by; exact_match: held-out answers that greedy "
        "decoding would write",
    )
    checkpoint_every_steps: Speed[int] = Field(200, gt=0)
    max_failures: Speed[int] = Field(2, ge=0, description="worker deaths that a training survives")
    timeout_seconds: Speed[float] = Field(
        1800, gt=0, description="a worker that keeps the others waiting longer ends the training"
    )
    trackers: Place[tuple[Literal["tensorboard", "wandb", "mlflow"], ...]] = ("tensorboard",)

    @property
    def is_tuned(self) -> bool:
        """Whether something of it is left to the labels."""
        return "auto" in (self.learning_rate, self.epochs)

    @property
    def number_format(self) -> Precision:
        """The precision; where the machines have not decided it, bf16."""
        return "bf16" if self.precision == "auto" else self.precision

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.workers != "auto":
            if self.global_batch_size % self.workers:
                raise ValueError(
                    f"global_batch_size ({self.global_batch_size}) is not a multiple of "
                    f"workers ({self.workers})"
                )
            if self.min_workers is not None and self.min_workers > self.workers:
                raise ValueError(
                    f"min_workers ({self.min_workers}) exceeds workers ({self.workers})"
                )
        if self.learning_rate != "auto" and self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate ({self.min_learning_rate}) exceeds learning_rate "
                f"({self.learning_rate})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} do not lie in [0, 1)")
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage: 3")
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage: 1 or more")
        if self.offload_optimizer == "nvme" and self.zero_stage != 3:
            # DeepSpeed would keep it in the CPU's memory, without a word.
            raise ValueError("offload_optimizer: nvme needs zero_stage: 3; cpu does with 1 and 2")
        if self.quantization != "none" and self.method != "lora":
            raise ValueError("quantization is of a frozen base: it needs method: lora")
        if self.quantization != "none" and self.zero_stage == 3:
            # bitsandbytes' weights are no tensors that ZeRO-3 can partition.
            raise ValueError("quantization needs zero_stage: 2 or less")
        if self.optimizer.endswith("8bit") and self.offload_optimizer != "none":
            raise ValueError(f"optimizer: {self.optimizer} is not off-loaded; choose AdamW")
        if self.best_by != "loss" and self.early_stopping_patience is None:
            raise ValueError("best_by needs early_stopping_patience: else the last weights count")
        if self.method == "lora" and self.zero_stage == 3 and self.lora.variant in _NOT_WITH_ZERO_3:
            raise ValueError(f"lora.variant: {self.lora.variant} needs zero_stage: 2 or less")
        if "nvme" in (self.offload_optimizer, self.offload_parameters) and not self.nvme_path:
            raise ValueError("off-load to nvme needs nvme_path")
        return self


class TuningConfig(Section):
    """Where learning_rate or epochs are auto: what is tried, and how many labels judge it."""

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="null: three that are usual for the method"
    )
    first_epochs: float = Field(
        3.0, gt=0, description="of every rate; the best is then tried with 2, 4, … times as many"
    )
    most_epochs: float = Field(24.0, gt=0)
    share: float = Field(0.2, gt=0, le=0.5, description="of the labels of each class, in a fold")
    folds: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="auto: as many as hold 100 labels together, three at most"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TuningConfig:
        if self.most_epochs < self.first_epochs:
            raise ValueError(
                f"most_epochs ({self.most_epochs:g}) is less than first_epochs "
                f"({self.first_epochs:g})"
            )
        if self.folds != "auto" and self.folds * self.share > 1:
            raise ValueError(f"{self.folds} folds of {self.share:g} are more than all labels")
        return self


class EvolveConfig(Section):
    """What the evolved model starts from and learns from."""

    start: Literal["base", "warm"] = "base"
    include_labeled: bool = Field(True, description="Eq. 9; Algorithm 1 leaves them out")
    soft_targets: bool = Field(
        False, description="policies of distributions: train on that over the options"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="overrides of `training` for this stage"
    )


class WarmupConfig(Section):
    """The first fine-tuning, on the labels alone."""

    shots: Added[int] = Field(
        0,
        ge=0,
        description="demonstrations that a label's prompt shows, a number drawn from 0 to this one "
        "for each: its nearest other labels, as collaborators with shots are asked",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="overrides of `training` for this stage"
    )
