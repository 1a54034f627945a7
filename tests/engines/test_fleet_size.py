"""How many replicas and workers there are, of what, on machines that this one is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from semievol_ray import UserError
from semievol_ray.config import GenerationConfig, ModelConfig, TrainingConfig
from semievol_ray.engines import fleet_size
from semievol_ray.machines import Machines
from semievol_ray.model_files import Dimensions, Weights, dimensions, weights
from semievol_ray.training import group_size

GIB = 1 << 30
H100 = Machines(cpus=128, node_cpus=64, gpus=8, gpu_memory=80 * GIB)
# A hub id that nobody has fetched.
UNKNOWN = ModelConfig(name="nobody/never-downloaded")


@pytest.fixture
def model_of(monkeypatch):
    """A model of so many GiB of weights in 16 bits."""

    def model(gib: float, engine: str = "vllm") -> ModelConfig:
        size = Weights(int(gib * GIB / 2), int(gib * GIB))
        for module in (fleet_size, group_size):
            monkeypatch.setattr(module, "weights", lambda _: size)
        return ModelConfig(name="m", engine=engine)

    return model


@pytest.mark.parametrize(
    ("gib", "machines", "shards", "words"),
    [
        (14, H100, 1000, "8 x 1 GPU at most"),
        (14, H100, 3, "3 x 1 GPU at most"),
        (140, H100, 1000, "2 x 4 GPUs at most"),
        (400, H100, 1000, "1 x 8 GPUs"),
        (1, Machines(cpus=64, node_cpus=64, memory=200 * GIB), 1000, "32 x 2 CPUs at most"),
        (14, Machines(cpus=64, node_cpus=64, memory=100 * GIB), 1000, "4 x 16 CPUs at most"),
        (14, Machines(cpus=64, node_cpus=32, memory=100 * GIB), 1, "1 x 32 CPUs"),
        (1, Machines(cpus=2, node_cpus=2, memory=15 * GIB), 12, "1 x 2 CPUs"),
        (14, Machines(cpus=2, node_cpus=2, memory=15 * GIB), 12, "1 x 2 CPUs"),
    ],
)  # fmt: skip
def test_replicas_follow_from_machines_model_and_shards(
    model_of, gib: float, machines: Machines, shards: int, words: str
) -> None:
    config = fleet_size.sized(
        GenerationConfig(), model_of(gib), machines, shards=shards, gpus=machines.gpus > 0
    )
    assert fleet_size.words(config) == words


def test_what_is_given_stays(model_of) -> None:
    asked = GenerationConfig(
        replicas={"min": 2, "max": 5}, cpus_per_replica=3, tensor_parallel=2, gpus_per_replica=4
    )
    found = fleet_size.sized(asked, model_of(140), H100, shards=99, gpus=True)
    assert found == asked


@pytest.mark.parametrize("engine", ["openai", "simulated", "probe"])
def test_what_loads_no_weights_has_one_replica(model_of, engine: str) -> None:
    found = fleet_size.sized(GenerationConfig(), model_of(1, engine), H100, shards=1000, gpus=True)
    assert fleet_size.words(found) == "1 x 1 CPU"


def test_a_model_that_no_replica_holds_is_refused_with_the_arithmetic(model_of) -> None:
    with pytest.raises(UserError, match=r"700\.0 GiB.*8 GPUs of 80\.0 GiB.*tensor_parallel"):
        fleet_size.sized(GenerationConfig(), model_of(700), H100, shards=9, gpus=True)
    small = Machines(cpus=8, node_cpus=8, memory=40 * GIB, node_memory=10 * GIB)
    with pytest.raises(UserError, match=r"14\.0 GiB.*10\.0 GiB of memory"):
        fleet_size.sized(GenerationConfig(), model_of(14), small, shards=9, gpus=False)


@pytest.mark.parametrize(
    ("machines", "batch", "words"),
    [
        (H100, 8, "8 x 1 GPU, ZeRO-2, bf16, micro-batch 1"),
        (H100, 12, "6 x 1 GPU, ZeRO-2, bf16, micro-batch 2"),
        (Machines(gpus=3), 8, "2 x 1 GPU, ZeRO-2, bf16, micro-batch 4"),
        (Machines(cpus=2, node_cpus=2), 8, "1 x 2 CPUs, ZeRO-2, bf16, micro-batch 4"),
        (Machines(cpus=256, node_cpus=64), 8, "1 x 16 CPUs, ZeRO-2, bf16, micro-batch 4"),
        (Machines(), 8, "1 x 1 CPU, ZeRO-2, bf16, micro-batch 4"),
        (Machines(gpus=2, gpus_without_bf16=True), 8, "2 x 1 GPU, ZeRO-2, fp16, micro-batch 4"),
    ],
)
def test_workers_follow_from_machines_and_batch(machines, batch: int, words: str) -> None:
    config = TrainingConfig(global_batch_size=batch)
    found = group_size.sized(config, UNKNOWN, machines, gpus=machines.gpus > 0)
    assert group_size.words(found) == words


def test_a_given_precision_stays() -> None:
    old = Machines(gpus=1, gpus_without_bf16=True)
    given = TrainingConfig(precision="bf16")
    assert group_size.sized(given, UNKNOWN, old, gpus=True).precision == "bf16"
    on_cpus = group_size.sized(TrainingConfig(), UNKNOWN, old, gpus=False)
    assert on_cpus.precision == "bf16"


# Of Llama 3.1 8B a token keeps 34 x 4096 bytes in each of 32 layers and 8 of each of 128,256 words,
# 5.5 MB; checkpointed 1.4. On 95 % of 80 GiB, less 16 GB of weights, there is room for 11 and for
# 44 examples of 1,024 tokens.
@pytest.mark.parametrize(
    ("settings", "machines", "micro"),
    [
        ({}, replace(H100, gpus=1), 11),
        ({"gradient_checkpointing": True}, replace(H100, gpus=1), 44),
        ({"max_length": 4096}, replace(H100, gpus=1), 2),
        ({"max_length": 65536}, replace(H100, gpus=1), 1),
        ({}, H100, 8),
        ({"micro_batch_size": 3}, H100, 3),
        ({"quantization": "4bit"}, replace(H100, gpus=1, gpu_memory=22 * GIB), 3),
        ({"quantization": "4bit"}, replace(H100, gpus=1, gpu_memory=None), 4),
        ({}, Machines(cpus=8, node_cpus=8, node_memory=64 * GIB), 8),
        ({}, Machines(), 64),
    ],
)
def test_a_pass_holds_what_memory_does(tmp_path, monkeypatch, settings, machines, micro) -> None:
    size = Weights(8_030_000_000, 16_060_000_000)
    monkeypatch.setattr(group_size, "weights", lambda _: size)
    numbers = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": numbers}))
    model = ModelConfig(name=str(tmp_path))
    assert dimensions(model) == Dimensions(4096, 32, 128256)
    config = TrainingConfig(global_batch_size=64, **settings)
    found = group_size.sized(config, model, machines, gpus=machines.gpus > 0)
    assert found.micro_batch_size == micro


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"hidden_size": "wide"}'])
def test_a_config_that_says_no_size_says_nothing(tmp_path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert dimensions(ModelConfig(name=str(tmp_path))) is None


def test_workers_that_are_given_have_a_cpu_each() -> None:
    machines = Machines(cpus=8, node_cpus=8)
    found = group_size.sized(TrainingConfig(workers=2), UNKNOWN, machines, gpus=False)
    assert (found.workers, found.cpus_per_worker, found.gpus_per_worker) == (2, 1, 0)


# Of 7 billion parameters, in GB: the table of the ZeRO paper's Figure 1, with other numbers.
@pytest.mark.parametrize(
    ("settings", "gigabytes"),
    [
        ({"zero_stage": 0}, 16 * 7),
        ({"zero_stage": 1}, 4 * 7 + 12 * 7 / 8),
        ({"zero_stage": 2}, 2 * 7 + 14 * 7 / 8),
        ({"zero_stage": 3}, 16 * 7 / 8),
        ({"zero_stage": 3, "offload_optimizer": "cpu"}, 4 * 7 / 8),
        ({"method": "lora"}, 2 * 7),
        ({"method": "lora", "quantization": "4bit"}, 7 / 2),
        ({"method": "lora", "zero_stage": 3}, 2 * 7 / 8),
    ],
)
def test_what_a_worker_holds_at_least(settings, gigabytes: float) -> None:
    config = TrainingConfig(**({"method": "full", "workers": 8, "gpus_per_worker": 1} | settings))
    found = group_size.least_memory(config, Weights(7_000_000_000, 14_000_000_000))
    assert found == pytest.approx(gigabytes * 1e9)


def test_a_training_that_cannot_fit_is_refused_with_what_helps(model_of) -> None:
    model = model_of(130)
    full = group_size.sized(TrainingConfig(method="full"), model, H100, gpus=True)
    with pytest.raises(UserError, match=r"69\.8 billion.*80\.0 GiB.*lora.*zero_stage: 3"):
        group_size.check_fits(full, model, H100)
    lora = group_size.sized(TrainingConfig(quantization="4bit"), model, H100, gpus=True)
    group_size.check_fits(lora, model, H100)
    # Where a GPU's size is not known, nothing is said.
    group_size.check_fits(full, model, Machines(gpus=8))


def test_the_size_of_a_model_is_read_from_its_headers(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5), np.float16), "b": np.zeros(7, np.float32)},
              tmp_path / "model-1.safetensors")  # fmt: skip
    save_file({"c": np.zeros((2, 2, 2), np.float32)}, tmp_path / "model-2.safetensors")
    assert weights(ModelConfig(name=str(tmp_path))) == Weights(15 + 7 + 8, 30 + 28 + 32)
    (tmp_path / "model-3.safetensors").write_bytes(b"\xff" * 20)
    assert weights(ModelConfig(name=str(tmp_path))) is None
    assert weights(ModelConfig(name="nobody/never-downloaded")) is None
