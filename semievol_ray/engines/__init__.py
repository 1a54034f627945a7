"""LLM engines behind one small protocol, and the pool of Ray actors that hosts them."""

from __future__ import annotations

import importlib.util
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.engines.fleet import FleetState
from semievol_ray.engines.pool import EnginePool
from semievol_ray.engines.protocol import (
    CUT_OFF,
    FAILED,
    GENERATION,
    REPLIES_VERSION,
    SCORES,
    Batch,
    Engine,
    EngineOptions,
    Message,
    Replies,
    Request,
    Sampling,
    request_seed,
)
from semievol_ray.engines.replica import Work

__all__ = [
    "CUT_OFF",
    "FAILED",
    "GENERATION",
    "REPLIES_VERSION",
    "SCORES",
    "Batch",
    "Engine",
    "EngineOptions",
    "EnginePool",
    "FleetState",
    "Message",
    "ModelConfig",
    "Replies",
    "Request",
    "Sampling",
    "Work",
    "request_seed",
    "resolve_engine",
]


def resolve_engine(model: ModelConfig) -> ModelConfig:
    """The model with `engine: auto` decided: vllm where it is installed, else transformers."""
    if model.engine != "auto":
        return model
    found: Any = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return model.model_copy(update={"engine": found})
