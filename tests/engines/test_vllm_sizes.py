"""What a model takes of its GPUs, told from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import UserError
from semievol_ray.engines.vllm_sizes import Footprint, check_fits, footprint, memory_share

GIB = 2**30
# Llama 3.1 8B's shape.
LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


def folder_of(tmp_path: Path, config: dict[str, Any], dtype: str = "BF16") -> Path:
    """A model's folder, with the header of its weights: 1000 x 1000 floats, and 8 bytes of ids."""
    size = {"BF16": 2, "F32": 4}[dtype] * 1_000_000
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": dtype, "shape": [1000, 1000], "data_offsets": [0, size]},
        "ids": {"dtype": "I64", "shape": [1], "data_offsets": [size, size + 8]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_footprint_is_weights_and_the_cache_of_a_token(tmp_path) -> None:
    found = footprint(folder_of(tmp_path, LLAMA), "auto")
    assert found == Footprint(2_000_008, 2 * 32 * 8 * 128 * 2)
    assert footprint(tmp_path, "float32") == Footprint(4_000_008, 2 * 32 * 8 * 128 * 4)


def test_weights_of_four_bytes_are_halved_as_vllm_does(tmp_path) -> None:
    folder = folder_of(tmp_path, LLAMA | {"torch_dtype": "float32"}, "F32")
    assert footprint(folder, "auto") == Footprint(2_000_008, 2 * 32 * 8 * 128 * 2)


@pytest.mark.parametrize(
    ("more", "numbers"),
    [
        ({"head_dim": 256}, 2 * 32 * 8 * 256),
        ({"num_key_value_heads": None}, 2 * 32 * 32 * 128),
        ({"layer_types": ["full_attention"] * 4 + ["sliding_attention"] * 28}, 2 * 4 * 8 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * 576),
    ],
)
def test_only_what_grows_with_the_sequence_counts(tmp_path, more, numbers) -> None:
    found = footprint(folder_of(tmp_path, {"text_config": LLAMA | more}), "auto")
    assert found.cache_of_a_token == numbers * 2


def test_a_tiny_model_of_transformers_is_measured(tiny_model) -> None:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    state = {t.data_ptr(): t for t in loaded.state_dict().values()}
    size = 2 * sum(t.numel() for t in state.values() if t.is_floating_point())
    assert footprint(Path(tiny_model), "auto").weights == size


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    taken = Footprint(15 * GIB, 2**17)
    check_fits("m", taken, tokens=32768, gpu_bytes=24 * GIB, utilization=0.92)
    with pytest.raises(UserError) as caught:
        check_fits("m", taken, tokens=131072, gpu_bytes=24 * GIB, utilization=0.92)
    said = str(caught.value)
    assert "weights of 15.0 GiB" in said and "131072 tokens, 16.0 GiB" in said
    assert "22.1 GiB (1 x 24.0 GiB x 0.92)" in said
    fitting = int(said.split("model.max_model_len to ")[1].split()[0])
    check_fits("m", taken, tokens=fitting, gpu_bytes=24 * GIB, utilization=0.92)
    with pytest.raises(UserError, match="do not fit"):
        check_fits("m", taken, tokens=fitting + 1, gpu_bytes=24 * GIB, utilization=0.92)
    check_fits("m", taken, tokens=131072, gpu_bytes=24 * GIB, utilization=0.92, gpus=2)


def test_weights_alone_that_do_not_fit_are_not_helped_by_a_shorter_window() -> None:
    with pytest.raises(UserError) as caught:
        check_fits("m", Footprint(30 * GIB, 1), tokens=1, gpu_bytes=24 * GIB, utilization=0.5)
    assert "max_model_len" not in str(caught.value)


def test_a_part_of_a_gpu_is_a_part_of_its_memory() -> None:
    assert memory_share(0.5, 0.9) == pytest.approx(0.45)
    assert memory_share(1, 0.9) is memory_share(0, 0.9) is memory_share(2, 0.9) is None
