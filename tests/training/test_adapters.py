"""Every adapter that the config offers: trained whole and partitioned, stored, loaded, merged."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from semievol_ray.config import AdapterVariant, TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.training import merge
from tests.training.conftest import MakeJob, build_tiny_model, train_here
from tests.training.test_outcomes import logits, whole, with_adapter

# What the tiny model's 64 columns ask for.
OPTIONS: dict[str, dict[str, Any]] = {
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 16},
    "fourierft": {"n_frequency": 100},
    "ia3": {"feedforward_modules": []},
    "oft": {"oft_block_size": 16},
    "randlora": {"r": 8},
    "shira": {"r": 4},
    "vera": {"r": 16},
    "waveft": {"n_frequency": 100},
}


@pytest.mark.parametrize("variant", typing.get_args(AdapterVariant))
def test_an_adapter_loads_in_peft_and_merges_into_its_base(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path, variant: str
) -> None:
    runs = []
    for stage in (0, 3):
        lora = {"variant": variant, "options": OPTIONS.get(variant, {})}
        options = {"lora": lora, "learning_rate": 1e-2, "zero_stage": stage}
        if variant in ("delora", "ln_tuning", "loha") and stage == 3:
            with pytest.raises(ValidationError, match=f"{variant} needs zero_stage: 2 or less"):
                make_job(**options)
            continue
        result, steps = train_here(make_job(**options))
        assert steps[-1].loss < steps[0].loss
        runs.append([p.loss for p in steps])
        facts = json.loads((result.output_dir / "adapter_config.json").read_text())
        assert facts["base_model_name_or_path"] == str(tiny_model)
        assert facts["modules_to_save"] is None
        adapted = with_adapter(tiny_model, result.output_dir)
        assert not torch.allclose(logits(adapted), logits(whole(tiny_model)), atol=1e-3)
        merged = merge(result.output_dir, tmp_path / f"merged-{stage}")
        assert torch.allclose(logits(whole(merged)), logits(adapted), atol=1e-4)
        card = (result.output_dir / "README.md").read_text()
        assert f"base_model: {tiny_model}" in card and f"| method | {variant}" in card
    for losses in runs[1:]:
        assert losses == pytest.approx(runs[0], abs=1e-5)


@pytest.mark.parametrize(
    "lora",
    [
        {"options": {"rnak": 3}},
        {"target_modules": ["no_such_layer"]},
        {"variant": "c3a", "options": {"block_size": 7}},
    ],
)
def test_what_peft_refuses_is_one_line(make_job: MakeJob, lora: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"training\.lora") as caught:
        train_here(make_job(lora=lora))
    assert "\n" not in str(caught.value)


def test_an_adapter_that_is_not_offered_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValidationError, match="'rslora'"):
        TrainingConfig(lora={"variant": "prefix_tuning"})  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [True, "gaussian", "orthogonal"])
def test_an_adapter_leaves_its_base_as_it_is_wherever_it_starts(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path, start: bool | str
) -> None:
    options = {"init_lora_weights": start}
    result, steps = train_here(make_job(lora={"options": options}, learning_rate=1e-2))
    assert steps[-1].loss < steps[0].loss
    base, adapted = logits(whole(tiny_model)), with_adapter(tiny_model, result.output_dir)
    assert not torch.allclose(logits(adapted), base, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), base)
    merged = merge(result.output_dir, tmp_path / "merged")
    assert torch.allclose(logits(whole(merged)), logits(adapted), atol=1e-4)


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "eva", "mica"]
)
def test_a_start_that_is_not_of_the_stored_base_is_refused(make_job: MakeJob, start: str) -> None:
    job = make_job(lora={"options": {"init_lora_weights": start}})
    with pytest.raises(UserError, match=f"{start} gives no adapter.*true, gaussian or orthogonal"):
        train_here(job)


def test_a_merge_that_cannot_be_is_one_line(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = train_here(make_job())[0].output_dir
    other = build_tiny_model(tmp_path / "other", hidden=32)
    output = tmp_path / "merged"
    mistakes: list[tuple[tuple[Path, Path], str | None, str]] = [
        ((tmp_path / "none", output), None, "no adapter_config.json"),
        ((adapter, output), str(tmp_path / "none"), "no such folder"),
        ((adapter, output), str(other), "does not fit"),
        ((adapter, tiny_model), None, "already there"),
    ]
    for paths, base, words in mistakes:
        with pytest.raises(UserError, match=words) as caught:
            merge(*paths, base_model=base)
        assert "\n" not in str(caught.value)
        assert not output.exists()
    config = adapter / "adapter_config.json"
    config.write_text("{}")
    with pytest.raises(UserError, match="names no base model"):
        merge(adapter, output)
