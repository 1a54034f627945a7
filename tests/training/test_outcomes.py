"""What a training leaves behind, and how it ends when it cannot go on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.training import TrainingJob, merge
from semievol_ray.training.export import commit
from tests.training.conftest import MakeJob, build_tiny_model, make_row, train_here, write_rows


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None]).logits


def with_adapter(base: str | Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def whole(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_left_is_used_without_a_pickle(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    job = make_job(method=method, checkpoint_every_steps=1)
    result, _ = train_here(job)
    assert not list(job.scratch_dir.rglob("*.pt"))
    assert {p.suffix for p in result.output_dir.iterdir()} <= {".safetensors", ".json", ".md"}

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle is read")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    if method == "full":
        logits(whole(result.output_dir))
    else:
        logits(with_adapter(job.base_model, result.output_dir))
        merge(result.output_dir, tmp_path / "merged")
        train_here(make_job(adapter_from=result.output_dir))


def test_an_adapter_goes_on_from_where_it_was(make_job: MakeJob) -> None:
    first, steps = train_here(make_job(learning_rate=1e-2, epochs=4))
    _, more = train_here(make_job(adapter_from=first.output_dir, learning_rate=1e-6))
    assert more[0].loss < steps[0].loss - 0.1


def test_training_all_weights_from_an_adapter_starts_from_their_merge(make_job: MakeJob) -> None:
    first, _ = train_here(make_job(learning_rate=1e-2))
    _, adapter = train_here(make_job(adapter_from=first.output_dir))
    result, full = train_here(make_job(adapter_from=first.output_dir, method="full"))
    assert full[0].loss == pytest.approx(adapter[0].loss, abs=1e-5)
    assert result.kind == "full" and (result.output_dir / "model.safetensors").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_runs_give_the_same_bits_and_another_seed_others(
    make_job: MakeJob, method: str
) -> None:
    name = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}[method]
    options = {"method": method, "lora": {"dropout": 0.1}}
    files = [
        load_file(train_here(make_job(seed=seed, **options))[0].output_dir / name)
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(files[0][k], files[1][k]) for k in files[0])
    assert not all(torch.equal(files[0][k], files[2][k]) for k in files[0])


def test_bf16_learns(make_job: MakeJob) -> None:
    _, steps = train_here(make_job(precision="bf16", epochs=3, zero_stage=2))
    assert steps[-1].loss < steps[0].loss


@pytest.mark.skipif(torch.cuda.is_available(), reason="here fp16 can be had")
def test_fp16_without_a_gpu_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        train_here(make_job(precision="fp16"))


def test_offload_and_gradient_checkpointing_change_no_loss(make_job: MakeJob) -> None:
    _, plain = train_here(make_job(zero_stage=2))
    _, offloaded = train_here(make_job(zero_stage=2, offload_optimizer="cpu"))
    _, recomputed = train_here(make_job(zero_stage=2, gradient_checkpointing=True))
    losses = [p.loss for p in plain]
    assert [p.loss for p in offloaded] == pytest.approx(losses, abs=1e-5)
    assert [p.loss for p in recomputed] == pytest.approx(losses, abs=1e-5)


def test_early_stopping_keeps_the_best_weights(make_job: MakeJob) -> None:
    job = make_job(
        method="full",
        epochs=30,
        learning_rate=3e-2,
        schedule="constant",
        held_out=0.25,
        early_stopping_patience=2,
    )
    result, steps = train_here(job)
    assert result.stopped_early and result.steps < steps[0].total_steps
    held_out = [p.held_out_loss for p in steps if p.held_out_loss is not None]
    assert result.best_held_out_loss == min(held_out) < held_out[-1]
    again = make_job(
        method="full",
        base_model=str(result.output_dir),
        validation=job.examples,
        learning_rate=1e-9,
    )
    assert train_here(again)[0].held_out_loss is not None


def test_validation_files_are_measured_and_not_trained_on(
    make_job: MakeJob, hard_examples: Path
) -> None:
    result, _ = train_here(make_job(validation=(hard_examples,), held_out=0.5))
    assert result.examples == 24 and result.held_out_loss is not None


def test_pretraining_on_bare_texts(
    make_job: MakeJob, write_examples: Callable[[Sequence[dict[str, Any]]], Path]
) -> None:
    rows = [make_row(i, soft=False) for i in range(16)]
    texts = [row | {"prompt": "", "candidates": [row["prompt"]]} for row in rows]
    job = make_job(write_examples(texts), method="full", epochs=4, learning_rate=1e-2)
    result, steps = train_here(job)
    assert result.examples == 16 and steps[-1].loss < steps[0].loss


def test_tensorboard_holds_the_losses(make_job: MakeJob) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make_job(trackers=("tensorboard",))
    _, steps = train_here(job)
    events = next((job.scratch_dir / "logs").rglob("events.out.tfevents*"))
    log = EventAccumulator(str(events.parent))
    log.Reload()
    assert [e.value for e in log.Scalars("loss")] == pytest.approx([p.loss for p in steps])


def test_a_loss_that_is_no_number_stops_at_once_and_keeps_the_last_checkpoint(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    job = make_job(base_model=str(broken))
    with pytest.raises(SemiEvolError, match=r"loss is nan at step 1 of 3.*learning_rate"):
        train_here(job)
    assert not job.output_dir.exists()


def test_a_diverging_training_keeps_its_checkpoint(make_job: MakeJob) -> None:
    job = make_job(
        method="full", learning_rate=1e30, warmup_ratio=0.0, checkpoint_every_steps=1, epochs=5
    )
    with pytest.raises(SemiEvolError, match="at step"):
        train_here(job)
    assert list((job.scratch_dir / "checkpoints").glob("step-*/manifest.json"))


def test_user_mistakes_are_one_line(make_job: MakeJob, tiny_model: Path, tmp_path: Path) -> None:
    no_eos = build_tiny_model(tmp_path / "no-eos")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        text = (no_eos / name).read_text()
        if name == "tokenizer_config.json":
            facts = {k: v for k, v in json.loads(text).items() if k != "eos_token"}
            (no_eos / name).write_text(json.dumps(facts))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text("{}")
    (pickled / "adapter_model.bin").write_bytes(b"")
    job = make_job()
    mistakes: list[tuple[TrainingJob, str]] = [
        (replace(job, base_model=str(tmp_path / "nowhere")), "no such folder"),
        (replace(job, base_model=str(no_eos)), "eos_token"),
        (replace(job, examples=(tmp_path / "nothing.parquet",)), "nothing.parquet"),
        (replace(job, adapter_from=pickled), "safetensors"),
        (make_job(max_length=3), "max_length"),
    ]
    for mistake, words in mistakes:
        with pytest.raises(UserError, match=words) as caught:
            train_here(mistake)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_example_is_longer_than_the_model_has_positions(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """One that looks its positions up has no others; the engine would refuse such prompts."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from semievol_ray.demo.model import make_llama
    from semievol_ray.training import token_cache

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    short: Any = make_llama(len(tokenizer), hidden=32, layers=1, heads=2, context=64)
    if kind == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
        ends = {"bos_token_id": 0, "eos_token_id": 1}
        drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = GPT2Config(vocab_size=len(tokenizer), **sizes, **ends, **drops)
        short = GPT2LMHeadModel(config)
    folder = tmp_path / "short"
    short.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [make_row(i, soft=False) for i in range(8)]
    rows = [row | {"prompt": 5 * row["prompt"]} for row in rows]
    examples = write_rows(tmp_path / "long.parquet", rows)
    found = []
    for max_length in (512, 64):
        job = make_job(examples, base_model=str(folder), max_length=max_length)
        result, steps = train_here(job)
        found.append([p.loss for p in steps])
        assert result.truncated_rows == 8 and result.max_length == 64
        assert result.tokens <= 8 * 64
        assert "| longest example | 64 tokens |" in (result.output_dir / "README.md").read_text()
        # A cache of other lengths is another.
        name = token_cache.fingerprint([examples], tokenizer, 64)
        assert [p.name for p in (job.scratch_dir / "tokens").iterdir()] == [name]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_what_is_put_in_its_place_stays_where_it_was_until_all_is_done(tmp_path: Path) -> None:
    """Whoever is killed right after it finds the best weights again."""
    best, model = tmp_path / "scratch" / "best", tmp_path / "model"
    best.mkdir(parents=True)
    model.mkdir()
    (model / "old.safetensors").write_bytes(b"old")
    (best / "adapter_model.safetensors").write_bytes(b"weights")
    for _ in range(2):
        commit(best, model)
        assert [p.name for p in model.iterdir()] == ["adapter_model.safetensors"]
    assert (best / "adapter_model.safetensors").read_bytes() == b"weights"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "scratch"]
