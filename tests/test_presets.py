"""Both presets, value by value, against what the paper says and what the authors' code does."""

from __future__ import annotations

from typing import Any

import pytest

from semievol_ray.config import Config
from semievol_ray.config_file import load_config

MINIMAL: dict[str, Any] = {
    "run_dir": "run",
    "model": {"name": "meta-llama/Llama-3.1-8B-Instruct"},
    "task": {"preset": "arc"},
    "data": {"labeled": "labeled.csv", "unlabeled": "unlabeled.csv", "test": "test.csv"},
}

# Where the two agree: section 4 and appendix of arXiv 2410.14745 v2; config/sft.yaml.
COMMON = {
    "training.method": "lora",
    "training.lora.variant": "lora",
    "training.lora.rank": 16,
    "training.lora.alpha": 32,  # twice the rank, as LLaMA-Factory has it
    "training.lora.dropout": 0.0,
    "training.lora.target_modules": "all-linear",
    "training.learning_rate": 1e-4,
    "training.epochs": 2.0,
    "training.global_batch_size": 8,
    "training.schedule": "cosine",
    "training.warmup_ratio": 0.1,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.max_length": 1024,
    "training.precision": "auto",  # bf16, where a GPU has it
    "evaluation.max_tokens": 1000,
    "evaluation.shots": 0,
    "evaluation.closed_answers": "generate",
    "iteration.rounds": 1,
}
PAPER = COMMON | {
    "retrieval.k": 3,
    "collaborators": [("warm", 0, 1.0, 1.0), ("warm", 1, 1.0, 1.0),
                      ("warm", 2, 1.0, 1.0), ("warm", 3, 1.0, 1.0)],
    "justify.when": "always",
    "selection.policy": "paper",
    "selection.percentile": 50.0,  # Eq. 7
    "selection.percentile_over": "unlabeled",
    "evolve.start": "base",
    "evolve.include_labeled": True,  # Eq. 9
    "evolve.soft_targets": False,
    "training.held_out": 0.0,
    "evaluation.temperature": 0.0,
}  # fmt: skip
# pipeline.py, eval.py, config/sft.yaml, config/sft-ft.yaml of the released code.
UPSTREAM = COMMON | {
    "retrieval.k": 0,
    "collaborators": [("warm", 0, 1.0, 1.0)] * 4,
    "generation.max_tokens": 1024,
    "justify.when": "disagreement",
    "justify.temperature": 1.0,
    "justify.max_tokens": 4096,
    "selection.policy": "upstream",
    "selection.percentile": 30.0,
    "training.held_out": 0.05,
    "evolve.start": "warm",
    "evolve.include_labeled": False,
    "evaluation.temperature": 0.5,
}


def value_of(config: Config, name: str) -> Any:
    if name == "collaborators":
        return [(c.model, c.shots, c.temperature, c.top_p) for c in config.collaborators]
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("preset", "values"), [("paper", PAPER), ("upstream", UPSTREAM)])
def test_a_preset_has_the_authors_values(preset: str, values: dict[str, Any]) -> None:
    config = load_config(MINIMAL | {"preset": preset})
    assert {name: value_of(config, name) for name in values} == values


def test_upstream_evolves_at_a_hundredth_of_the_rate() -> None:
    config = load_config(MINIMAL | {"preset": "upstream"})
    evolved = config.training_for("evolve")
    assert (evolved.learning_rate, evolved.epochs, evolved.held_out) == (1e-6, 2.0, 0.05)
    assert config.training_for("warmup").learning_rate == 1e-4
