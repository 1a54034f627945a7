"""Warm-up (in-weight propagation): fine-tune the base model on the labels alone."""

from __future__ import annotations

from semievol_ray.stages.context import Context, ModelRef, Outcome
from semievol_ray.stages.finetune import finetune, write_labeled


def run(context: Context) -> Outcome:
    """Leave M_warm = FT(M_base, D_labelled) in `round-1/warmup/model`."""
    folder = "round-1/warmup"
    shards = write_labeled(context, folder)
    return finetune(
        context, "warmup", folder, shards, start=ModelRef(context.base), seed=context.config.seed
    )
