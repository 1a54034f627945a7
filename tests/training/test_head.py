"""The loss out of the output layer, a part at a time: the same loss, gradients and weights."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semievol_ray.training import head
from semievol_ray.training.loop import _Training
from semievol_ray.training.world import joined
from tests.training.conftest import MakeJob, train_here
from tests.training.reference import train_reference
from tests.training.test_loop import check_same


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two rows of logits at a time; counts the rows of each part."""
    monkeypatch.setattr(head, "MOST_LOGITS", 600)
    seen: list[int] = []
    total = head.Answers.total

    def counted(self: head.Answers, logits: torch.Tensor, part: slice = slice(None)) -> Any:
        seen.append(len(logits))
        return total(self, logits, part)

    monkeypatch.setattr(head.Answers, "total", counted)
    return seen


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_part_at_a_time_is_plain_pytorch_too(
    make_job: MakeJob, small_parts: list[int], method: str, stage: int
) -> None:
    job = make_job(method=method, zero_stage=stage)
    check_same(job, train_reference(job), *train_here(job))
    # All of an answer's logits are there once: when the head is compared with the model's own.
    assert sum(rows > 600 // 259 for rows in small_parts) == 1


def test_dft_is_the_same_in_parts(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = train_here(make_job(loss="dft"))
    monkeypatch.setattr(head, "MOST_LOGITS", 600)
    _, parts = train_here(make_job(loss="dft"))
    assert [p.loss for p in parts] == pytest.approx([p.loss for p in whole], abs=1e-6)


@pytest.fixture
def lone_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    lone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}  # fmt: skip
    for name, value in lone.items():
        monkeypatch.setenv(name, value)
    with joined(tmp_path / "log", 60) as world:
        yield world


@pytest.mark.parametrize("cap", [None, 30.0])
def test_a_model_that_caps_its_logits_computes_them_itself(
    make_job: MakeJob, tmp_path: Path, tiny_model: Path, lone_worker: Any, cap: float | None
) -> None:
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=cap,
        pad_token_id=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    training = _Training(make_job(base_model=str(tmp_path / "gemma")), lone_worker, print)
    assert (training.model.head is None) == (cap is not None)
