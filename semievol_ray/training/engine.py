"""The model, its adapter and its optimizer inside a DeepSpeed engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import deepspeed
import torch

from semievol_ray.config import given
from semievol_ray.errors import UserError
from semievol_ray.training import adapters, models, zero
from semievol_ray.training.attention import can_pack, use_packed_attention
from semievol_ray.training.batches import Layout, MicroBatch
from semievol_ray.training.group_size import USUAL_MICRO_BATCH
from semievol_ray.training.head import AnswerHead
from semievol_ray.training.job import TrainingJob
from semievol_ray.training.loss import PassLoss, keeps_logits, pass_loss
from semievol_ray.training.noise import EmbeddingNoise
from semievol_ray.training.world import World

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class TrainingModel:
    """What is trained, and how its batches are laid out."""

    engine: Any
    layout: Layout
    keep_logits: bool
    # Where the output layer is one that may compute the loss itself.
    head: AnswerHead | None
    noise: EmbeddingNoise | None
    # Of forward and backward, for every token that is read; without attention's own products.
    flops_per_token: float

    def loss_of(self, batch: MicroBatch, loss: str = "nll") -> PassLoss:
        """The loss of one pass, which lies on the model's device."""
        if self.noise is not None:
            self.noise.enter_pass(batch)
        return pass_loss(
            self.engine, batch, keep_logits=self.keep_logits, head=self.head, loss=loss
        )


def build(job: TrainingJob, world: World) -> TrainingModel:
    """DeepSpeed's engine around the job's model, before its first step."""
    config = job.config
    gpu = world.device.type == "cuda"
    if config.number_format == "fp16" and not gpu:
        raise UserError("training.precision: fp16 needs a GPU; choose bf16 or fp32")
    settings = zero.deepspeed_config(config, gpu=gpu)
    # transformers partitions weights as it reads them, and peft gathers those that it looks at,
    # only for as long as this object lives.
    partitioned = _partitioned_construction(settings) if config.zero_stage == 3 else None
    try:
        with world.together():
            # Where they are partitioned, reading them is a collective: only what they are read
            # from may fail here.
            models.load_config(job.base_model, job.revision, job.trust_remote_code)
            base = _load_base(job, world) if partitioned is None else None
        if base is None:
            base = _load_base(job, world)
        layout = Layout(
            packed=config.packing and can_pack(base, config.max_length),
            micro_batch_size=given(config.micro_batch_size, USUAL_MICRO_BATCH),
            max_length=config.max_length,
            # Noise and dropout are drawn for each token of each sequence.
            shares_opening=not (config.neftune_alpha or config.lora.dropout or drops_out(base)),
        )
        if layout.packed:
            use_packed_attention(base)
        model = _with_adapter(base, job) if config.method == "lora" else base
        embeddings, outputs = base.get_input_embeddings(), base.get_output_embeddings()
        noise = EmbeddingNoise(embeddings, config.neftune_alpha) if config.neftune_alpha else None
        keep_logits = keeps_logits(base)
        head = AnswerHead(outputs) if keep_logits and type(outputs) is torch.nn.Linear else None
    finally:
        # An error's traceback would keep it, and partition the next training of this process.
        partitioned = None
    model.train()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=zero.build_optimizer(model, config, gpu=gpu),
        config=settings,
        dist_init_required=False,
    )
    if config.zero_stage == 0 and config.number_format != "fp32":
        # Here DeepSpeed takes a first step with gradients of 0, and AdamW would go on counting
        # from it: its bias correction would be too weak for all the steps that follow.
        engine.optimizer.optimizer.state.clear()
    _restore_positions(base, world.device)
    return TrainingModel(
        engine=engine,
        layout=layout,
        keep_logits=keep_logits,
        head=head,
        noise=noise,
        flops_per_token=_flops_per_token(base),
    )


def drops_out(model: torch.nn.Module) -> bool:
    """Whether a model has dropout of its own, as GPT-2 has; most have none any more."""
    modules = (m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    config = getattr(model, "config", None)
    named = {} if config is None else config.get_text_config().to_dict()
    rates = [named[name] for name in named if name.endswith(("dropout", "pdrop"))]
    return any(isinstance(rate, float) and rate > 0 for rate in (*modules, *rates))


def _partitioned_construction(settings: dict[str, Any]) -> object:
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(settings)


def _load_base(job: TrainingJob, world: World) -> Any:
    config = job.config
    base = models.load_model(
        job.base_model,
        DTYPES[config.number_format],
        job.revision,
        job.trust_remote_code,
        quantization=config.quantization,
        device=world.device,
    )
    base.config.use_cache = False
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return base


def _with_adapter(base: Any, job: TrainingJob) -> Any:
    config = job.config
    if job.adapter_from is not None:
        model: Any = adapters.continue_adapter(base, job.adapter_from)
    else:
        model = adapters.add_adapter(
            base, config.lora, seed=job.seed, base_model=job.base_model, revision=job.revision
        )
    if config.quantization == "none":
        return model.to(DTYPES[config.number_format])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(DTYPES[config.number_format])
    return model


def _restore_positions(base: Any, device: torch.device) -> None:
    """Rotary frequencies in float32, as they are where the model answers.

    The casts to 16 bits took their last digits, so that a far token stood elsewhere in training.
    """
    for module in base.modules():
        names = [name for name, _ in module.named_buffers(recurse=False) if "inv_freq" in name]
        if names and hasattr(module, "config"):
            anew = type(module)(module.config)
            for name in names:
                setattr(module, name, getattr(anew, name).to(device))


def _flops_per_token(model: Any) -> float:
    """2 for each parameter forward, 2 back through it, and 2 for its own gradient if it has one.

    Embeddings are looked up, and logits computed for the few answer tokens: neither is counted.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    uncounted = {id(p) for module in ends if module is not None for p in module.parameters()}
    total = 0.0
    for parameter in model.parameters():
        if id(parameter) not in uncounted:
            # ZeRO-3 leaves an empty tensor in place of a partitioned parameter.
            size = getattr(parameter, "ds_numel", parameter.numel())
            if type(parameter).__name__ == "Params4bit":
                size *= 2  # two weights a byte
            total += size * (6 if parameter.requires_grad else 4)
    return total
