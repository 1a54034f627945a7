"""The loop, in one process and in two, against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semievol_ray.training import Progress, TrainingJob, TrainingResult, attention, batches
from semievol_ray.training.batches import MicroBatch
from tests.training import worker_program
from tests.training.conftest import MakeJob, Workers, make_row, train_here, write_rows
from tests.training.reference import Reference, train_reference


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_gradients_and_weights_are_those_of_plain_pytorch(
    make_job: MakeJob,
    two_workers: Workers,
    references: dict[str, Reference],
    method: str,
    stage: int,
    packing: bool,
) -> None:
    job = make_job(method=method, zero_stage=stage, packing=packing)
    if method not in references:
        references[method] = train_reference(job)
    expected = references[method]
    check_same(job, expected, *train_here(job))
    alone, together = replace_folders(job, "alone"), replace_folders(job, "together")
    check_same(together, expected, *two_workers.train(together))
    for gradients in (worker_program.gradients(alone), two_workers.ask("gradients", together)):
        assert gradients.keys() == expected.gradients.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, expected.gradients[name], rtol=1e-4, atol=1e-6), name


def replace_folders(job: TrainingJob, name: str) -> TrainingJob:
    scratch = job.scratch_dir.with_name(f"{job.scratch_dir.name}-{name}")
    return replace(job, scratch_dir=scratch, output_dir=scratch / "out")


def check_same(
    job: TrainingJob, expected: Reference, result: TrainingResult, seen: list[Progress]
) -> None:
    assert [p.loss for p in seen] == pytest.approx(expected.losses, abs=1e-5)
    norms = [p.grad_norm for p in seen if p.grad_norm is not None]
    assert job.config.zero_stage == 0 or norms == pytest.approx(expected.grad_norms, rel=1e-4)
    trained = load(job, result)
    for name, parameter in expected.model.named_parameters():
        got = trained.get_parameter(name)
        assert torch.allclose(got, parameter, atol=2e-5), name


def load(job: TrainingJob, result: TrainingResult) -> torch.nn.Module:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    where = result.output_dir if result.kind == "full" else job.base_model
    base = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    if result.kind == "full":
        return base
    return PeftModel.from_pretrained(base, result.output_dir)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_positions_are_those_of_the_model_that_answers(
    make_job: MakeJob, method: str, stage: int
) -> None:
    from transformers import AutoModelForCausalLM

    job = make_job(method=method, zero_stage=stage, precision="bf16")
    serving = AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.bfloat16)
    frequencies = serving.model.rotary_emb.inv_freq
    assert not torch.equal(frequencies, frequencies.bfloat16().float())  # some digits could be lost
    trained = worker_program.buffers(job)
    found = [b for name, b in trained.items() if name.endswith("rotary_emb.inv_freq")]
    assert len(found) == 1 and torch.equal(found[0], frequencies)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_cap_on_attention_scores_is_trained_with(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path, stage: int
) -> None:
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=1,
        initializer_range=0.3, attn_logit_softcapping=0.5, bos_token_id=0, eos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    job = make_job(base_model=str(tmp_path / "gemma"), zero_stage=stage)
    _, steps = train_here(job)
    expected = train_reference(job, attn_implementation="eager").losses
    assert [p.loss for p in steps] == pytest.approx(expected, abs=1e-4)
    assert expected[0] != pytest.approx(train_reference(job).losses[0], abs=1e-2)


@pytest.mark.parametrize("short", [0, 256])
def test_packed_bf16_has_the_losses_of_fp32(
    make_job: MakeJob, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether rows count as short, whose attention is computed in 32 bits on CPUs, or not."""
    monkeypatch.setattr(attention, "_SHORT", short)
    losses = {
        precision: [p.loss for p in train_here(make_job(precision=precision))[1]]
        for precision in ("bf16", "fp32")
    }
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


@pytest.mark.parametrize("stage", [0, 2])
def test_dft_weighs_each_token_by_its_probability(make_job: MakeJob, stage: int) -> None:
    """The gradient of the loss times a constant probability, against autograd's own."""
    plain = make_job(zero_stage=stage, precision="fp32")
    job = replace(plain, config=plain.config.model_copy(update={"loss": "dft"}))
    reference = worker_program.dft_gradients(replace_folders(plain, "reference"))
    found = worker_program.gradients(replace_folders(job, "dft"))
    assert found.keys() == reference.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, reference[name], rtol=1e-4, atol=1e-6), name


def test_lora_plus_reaches_the_steps(make_job: MakeJob) -> None:
    """One step of AdamW moves every weight by its rate, so B's move by sixteen times A's."""
    moved = {}
    for ratio in (1.0, 16.0):
        job = make_job(method="lora", lora={"plus_ratio": ratio}, warmup_ratio=0.0)
        moved[ratio] = worker_program.first_step(replace_folders(job, f"plus-{ratio}"))
    for name in moved[1.0]:
        expected = 16.0 if ".lora_B." in name else 1.0
        assert moved[16.0][name] == pytest.approx(expected * moved[1.0][name], rel=0.01), name


@pytest.mark.parametrize("opening", ["", "How does this sound? "])
def test_packing_and_soft_targets_change_no_loss(
    make_job: MakeJob, tmp_path: Path, opening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soft target is its candidates as weighted examples of their own, packed or not.

    What all prompts open with is read once where rows are packed, and changes nothing either.
    """
    passes: list[MicroBatch] = []
    collate = batches.collate
    monkeypatch.setattr(batches, "collate", lambda *a: (passes.append(collate(*a)), passes[-1])[1])
    rows = [make_row(i, soft=True) for i in range(24)]
    rows = [row | {"prompt": opening + row["prompt"]} for row in rows]
    copies = [
        row | {"example_id": f"{row['example_id']}-{i}", "candidates": [row["candidates"][i]],
               "candidate_weights": [1.0], "weight": row["weight"] * row["candidate_weights"][i],
               "token_weights": row.get("token_weights") and [row["token_weights"][i]]}
        for row in rows for i in range(len(row["candidates"]))
    ]  # fmt: skip
    files = [
        write_rows(tmp_path / "rows.parquet", rows),
        write_rows(tmp_path / "copies.parquet", copies),
    ]
    # One batch holds them all, so that both files' steps are the same steps.
    options = {"global_batch_size": len(copies), "epochs": 4, "zero_stage": 2, "method": "full"}
    runs = [
        train_here(make_job(file, packing=packing, micro_batch_size=micro, **options))[1]
        for file in files
        for packing, micro in ((True, 2), (True, 50), (False, 5))
    ]
    assert len(runs[0]) == 4 and runs[0][-1].loss < runs[0][0].loss
    assert any(p.opening >= len(opening) for p in passes if p.segments is not None)
    assert all(p.opening == 0 for p in passes if p.segments is None)
    for steps in runs[1:]:
        assert [p.loss for p in steps] == pytest.approx([p.loss for p in runs[0]], abs=1e-5)
        norms = [p.grad_norm for p in steps]
        assert norms == pytest.approx([p.grad_norm for p in runs[0]], rel=1e-4)


@pytest.mark.parametrize("drawn", [{}, {"neftune_alpha": 5.0}, {"lora": {"dropout": 0.1}}])
def test_what_is_drawn_for_each_token_is_shared_by_none(
    make_job: MakeJob, tmp_path: Path, drawn: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    openings: list[int] = []
    collate = batches.collate

    def watched(*a: Any) -> MicroBatch:
        micro = collate(*a)
        openings.append(micro.opening)
        return micro

    monkeypatch.setattr(batches, "collate", watched)
    rows = [make_row(i, soft=False) for i in range(24)]
    rows = [row | {"prompt": "How does this sound? " + row["prompt"]} for row in rows]
    examples = write_rows(tmp_path / "rows.parquet", rows)
    train_here(make_job(examples, method="lora", micro_batch_size=50, **drawn))
    assert openings and any(openings) is not bool(drawn)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a GPU")
def test_flash_attention_keeps_the_sequences_of_a_row_apart(
    make_job: MakeJob, hard_examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, flash = [], attention._flash
    monkeypatch.setattr(attention, "_flash", lambda *a: (calls.append(a), flash(*a))[1])
    runs = [
        train_here(make_job(hard_examples, packing=packing, precision="bf16", method="full"))[1]
        for packing in (True, False)
    ]
    packed, padded = ([p.loss for p in steps] for steps in runs)
    assert calls and packed == pytest.approx(padded, abs=2e-2)
