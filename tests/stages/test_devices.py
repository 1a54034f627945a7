"""What a run needs is decided once: no node that is away turns a run on GPUs into one on CPUs."""

from __future__ import annotations

import pytest

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.config_file import load_config
from semievol_ray.engines.fleet_size import sized
from semievol_ray.machines import Machines
from semievol_ray.stages import run_view
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger


def test_a_run_on_gpus_stays_one(tmp_path, monkeypatch) -> None:
    there = {"gpus": 0.0}
    monkeypatch.setattr(run_view, "most_gpus", lambda: there["gpus"])

    def new() -> Context:
        run = RunDirectory(str(tmp_path / "run"))
        config = load_config(
            {"run_dir": run.uri, "model": {"name": "m"}, "task": {"kind": "label"},
             "data": {"labeled": "l", "unlabeled": "u"}}
        )  # fmt: skip
        return Context(config, run, StageLedger(run))

    assert not new().has_gpus, "there is none, and none may come"
    there["gpus"] = 8.0
    assert new().has_gpus, "a run that began on CPUs takes the GPUs that came"
    there["gpus"] = 0.0
    assert new().has_gpus, "the spot nodes went: they are waited for"


@pytest.mark.parametrize(
    ("engine", "gpus", "asked", "decided"),
    [("vllm", True, None, 4), ("vllm", False, None, 0), ("openai", True, None, 0),
     ("vllm", True, 0.5, 0.5), ("transformers", True, 0, 0)],
)  # fmt: skip
def test_a_replicas_gpus(engine, gpus, asked, decided) -> None:
    parts = 4 if asked is None else 1
    config = GenerationConfig(gpus_per_replica=asked, tensor_parallel=parts)
    model = ModelConfig(name="m", engine=engine)
    found = sized(config, model, Machines(gpus=8), shards=1, gpus=gpus)
    assert found.gpus_per_replica == decided


def test_a_replica_with_fewer_gpus_than_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gpus_per_replica \(2\) is less than .* \(4\)"):
        GenerationConfig(gpus_per_replica=2, tensor_parallel=2, pipeline_parallel=2)
    assert GenerationConfig(gpus_per_replica=4, tensor_parallel=4).gpus_per_replica == 4
    assert GenerationConfig(gpus_per_replica=0.5).gpus_per_replica == 0.5
