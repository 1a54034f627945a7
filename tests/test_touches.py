"""What of a config is part of a fingerprint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from semievol_ray.config import DataConfig, TrainingConfig
from semievol_ray.config_file import load_config
from semievol_ray.stages.stage import trained_settings
from semievol_ray.touches import Added, Place, Speed, of_result


class Inner(BaseModel):
    kept: int = 1
    later: Added[int | None] = None


class Section(BaseModel):
    result: int = 1
    speed: Speed[int] = 2
    place: Place[str] = "here"
    later: Added[dict[str, Any]] = Field(default_factory=dict)
    inner: Inner = Inner()


def test_a_fingerprint_holds_what_touches_the_result() -> None:
    assert of_result(Section()) == {"result": 1, "inner": {"kept": 1}}
    changed = Section(speed=9, place="there", later={"a": 1}, inner=Inner(later=0))
    assert of_result(changed) == {
        "result": 1, "later": {"a": 1}, "inner": {"kept": 1, "later": 0}
    }  # fmt: skip
    assert of_result(Section(), without=("inner",)) == {"result": 1}


def test_runs_made_before_a_setting_was_there_are_gone_on_with() -> None:
    settings = of_result(TrainingConfig())
    assert not {"optimizer", "neftune_alpha", "quantization", "best_by"} & settings.keys()
    assert of_result(TrainingConfig(optimizer="SGD"))["optimizer"] == "SGD"
    data = of_result(DataConfig(labeled="a", unlabeled="b"))
    assert "weight" not in data["columns"]


def test_a_precision_that_is_left_open_is_the_one_that_runs_had_before_it_could_be() -> None:
    config = load_config(
        {"run_dir": "r", "model": {"name": "m"}, "data": {"labeled": "a", "unlabeled": "b"}}
    )
    settings = trained_settings(config, config.training)
    assert config.training.precision == "auto" and settings["training"]["precision"] == "bf16"
    assert settings == trained_settings(config, TrainingConfig(precision="bf16"))


def test_how_memory_is_saved_is_no_part_of_a_result() -> None:
    saved = TrainingConfig(
        zero_stage=3, packing=False, offload_optimizer="cpu", offload_parameters="cpu",
        gradient_checkpointing=True, micro_batch_size=1,
    )  # fmt: skip
    assert of_result(saved) == of_result(TrainingConfig())
