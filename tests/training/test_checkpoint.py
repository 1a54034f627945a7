"""Resume: from the files that a killed run leaves, at the step, to the same weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semievol_ray.errors import SemiEvolError
from semievol_ray.store import RunDirectory
from semievol_ray.training import Depot, Progress, TrainingJob, TrainingResult, train
from semievol_ray.training.checkpoint import Checkpoints, TrainingState
from semievol_ray.training.world import World
from tests.training.conftest import MakeJob, Workers, train_here

SIX_STEPS = {"epochs": 2, "checkpoint_every_steps": 3}


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if result.kind == "adapter" else "model.safetensors"
    return load_file(result.output_dir / name)


def resumed(job: TrainingJob, tmp_path: Path, left: Path, name: str) -> TrainingJob:
    scratch = tmp_path / name
    scratch.mkdir()
    left.rename(scratch / "checkpoints")
    return replace(job, scratch_dir=scratch, output_dir=tmp_path / f"{name}-out")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_resumed_training_ends_in_the_very_same_weights(
    make_job: MakeJob,
    two_workers: Workers,
    tmp_path: Path,
    method: str,
    stage: int,
    precision: str,
) -> None:
    job = make_job(method=method, zero_stage=stage, precision=precision, **SIX_STEPS)
    whole, all_steps = two_workers.train(job, copy_at=3, copy_to=tmp_path / "left")
    again = resumed(job, tmp_path, tmp_path / "left", "again")
    result, steps = two_workers.train(again)
    assert [p.step for p in all_steps] == [1, 2, 3, 4, 5, 6]
    assert [p.step for p in steps] == [4, 5, 6]
    assert [p.loss for p in steps] == [p.loss for p in all_steps[3:]]
    expected = weights(whole)
    for name, tensor in weights(result).items():
        assert torch.equal(tensor, expected[name]), name
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    assert result.train_loss == whole.train_loss
    assert not (again.scratch_dir / "checkpoints").exists()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_workers_checkpoint_resumes_on_one(
    make_job: MakeJob, two_workers: Workers, tmp_path: Path, method: str, stage: int
) -> None:
    job = make_job(method=method, zero_stage=stage, weight_decay=0.1, **SIX_STEPS)
    whole, all_steps = two_workers.train(job, copy_at=3, copy_to=tmp_path / "left")
    result, steps = train_here(resumed(job, tmp_path, tmp_path / "left", "one"))
    check_continuous(all_steps, steps, whole, result)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_in_16_bits_too_another_number_of_workers_goes_on(
    make_job: MakeJob, two_workers: Workers, tmp_path: Path, stage: int
) -> None:
    job = make_job(zero_stage=stage, precision="bf16", **SIX_STEPS)
    whole, all_steps = two_workers.train(job, copy_at=3, copy_to=tmp_path / "left")
    result, steps = train_here(resumed(job, tmp_path, tmp_path / "left", "one"))
    assert [p.step for p in steps] == [4, 5, 6]
    assert [p.loss for p in steps] == pytest.approx([p.loss for p in all_steps[3:]], abs=0.02)
    expected = weights(whole)
    for name, tensor in weights(result).items():
        # The last digit of 16 bits, and no step as large as those of an optimizer that begins anew.
        assert torch.allclose(tensor, expected[name], rtol=2**-7, atol=1e-4), name


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_workers_checkpoint_resumes_on_two(
    make_job: MakeJob, two_workers: Workers, tmp_path: Path, stage: int
) -> None:
    from tests.training.worker_program import run

    job = make_job(zero_stage=stage, **SIX_STEPS)
    whole, all_steps = run(job, copy_at=3, copy_to=tmp_path / "left")
    result, steps = two_workers.train(resumed(job, tmp_path, tmp_path / "left", "two"))
    check_continuous(all_steps, steps, whole, result)


OTHER_FORMS = [
    *({"zero_stage": stage, "then": {"zero_stage": other}}
      for stage, other in itertools.permutations(range(4), 2)),
    {"zero_stage": 2, "precision": "bf16", "then": {"zero_stage": 3}},
    {"zero_stage": 0, "precision": "bf16", "then": {"zero_stage": 1}},
    {"zero_stage": 1, "precision": "bf16", "then": {"zero_stage": 0}},
    {"zero_stage": 2, "then": {"offload_optimizer": "cpu"}},
    {"zero_stage": 1, "then": {"zero_stage": 3, "offload_optimizer": "cpu",
                               "offload_parameters": "cpu"}},
    {"packing": False, "then": {"packing": True, "micro_batch_size": 1}},
]  # fmt: skip


@pytest.mark.parametrize("forms", OTHER_FORMS, ids=str)
def test_advice_for_memory_is_followed_without_losing_a_step(
    make_job: MakeJob, tmp_path: Path, forms: dict[str, Any]
) -> None:
    from tests.training.worker_program import run

    before = {key: value for key, value in forms.items() if key != "then"}
    method = "full" if OTHER_FORMS.index(forms) % 2 else "lora"
    options: dict[str, Any] = {"method": method, "weight_decay": 0.1, **SIX_STEPS}
    whole, all_steps = run(make_job(**options, **before), copy_at=3, copy_to=tmp_path / "left")
    job = make_job(**options | before | forms["then"])
    result, steps = train_here(resumed(job, tmp_path, tmp_path / "left", "again"))
    if before.get("precision") == "bf16":
        assert [p.loss for p in steps] == pytest.approx([p.loss for p in all_steps[3:]], abs=0.02)
    else:
        check_continuous(all_steps, steps, whole, result)


def check_continuous(all_steps: Any, steps: Any, whole: Any, result: Any) -> None:
    assert [p.step for p in steps] == [4, 5, 6]
    assert [p.loss for p in steps] == pytest.approx([p.loss for p in all_steps[3:]], abs=1e-5)
    expected = weights(whole)
    for name, tensor in weights(result).items():
        assert torch.allclose(tensor, expected[name], atol=2e-5), name


def test_a_damaged_checkpoint_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    from tests.training.worker_program import run

    job = make_job(**SIX_STEPS)
    run(job, copy_at=3, copy_to=tmp_path / "left")
    victim = next((tmp_path / "left").glob("step-*/*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(SemiEvolError, match="damaged"):
        train_here(resumed(job, tmp_path, tmp_path / "left", "again"))


@pytest.mark.parametrize("kept", [{}, {"rank-0": b"first"}, {"rank-0": b"fi"}])
def test_a_machine_with_parts_of_a_checkpoint_fetches_the_others(
    tmp_path: Path, kept: dict[str, bytes]
) -> None:
    parts = {"rank-0": b"first", "rank-1": b"second"}
    facts = {
        "fingerprint": "this job",
        "state": asdict(TrainingState(step=10)),
        "loss_scale": {},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
    }
    run = RunDirectory(str(tmp_path / "run"))
    depot, tag = Depot(run, "warmup"), "step-00000010"
    for name, content in parts.items():
        run.write_bytes(f"warmup/scratch/checkpoints/{tag}/{name}", content)
    depot.write_json(f"scratch/checkpoints/{tag}/manifest.json", facts)
    # The first worker's machine has its own part, whole or half, and the manifest of all.
    here = tmp_path / "here"
    (here / tag).mkdir(parents=True)
    (here / tag / "manifest.json").write_text(json.dumps(facts))
    for name, content in kept.items():
        (here / tag / name).write_bytes(content)
    saved = Checkpoints(here, "this job", World(0, 2, torch.device("cpu")), depot).newest()
    assert saved is not None and saved.state.step == 10
    assert {name: (here / tag / name).read_bytes() for name in parts} == parts


def test_a_checkpoint_without_manifest_or_of_another_training_is_not_used(
    make_job: MakeJob, tmp_path: Path
) -> None:
    from tests.training.worker_program import run

    job = make_job(**SIX_STEPS)
    run(job, copy_at=3, copy_to=tmp_path / "left")
    again = resumed(job, tmp_path, tmp_path / "left", "again")
    other = replace(again, seed=7)
    _, steps = train_here(other)
    assert steps[0].step == 1
    for manifest in (again.scratch_dir / "checkpoints").glob("step-*/manifest.json"):
        manifest.unlink()
    _, steps = train_here(again)
    assert steps[0].step == 1


def test_training_resumed_at_an_epochs_end_trains_the_epoch_that_is_left(
    make_job: MakeJob, tmp_path: Path
) -> None:
    from tests.training.worker_program import run

    job = make_job(**SIX_STEPS)
    run(job, copy_at=3, copy_to=tmp_path / "left")
    result, steps = train_here(resumed(job, tmp_path, tmp_path / "left", "again"))
    assert len(steps) == 3 and result.steps == 6


def test_a_worker_that_is_told_to_go_leaves_a_checkpoint(make_job: MakeJob) -> None:
    """SIGTERM, as a pre-empted process gets it: no checkpoint was due for long."""
    job = make_job(epochs=8, checkpoint_every_steps=1000)

    def go(progress: Progress) -> None:
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        if progress.step == 8:
            raise ConnectionError("the machine is gone")

    with pytest.raises(ConnectionError):
        train(job, on="process", on_progress=go)
    _, steps = train_here(job)
    # Told amid step 4 or right after it, it wrote down one of the next.
    assert steps[0].step in (5, 6) and steps[-1].step == 24
    whole, _ = train_here(make_job(epochs=8))
    again = load_file(job.output_dir / "adapter_model.safetensors")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, again[name]), name
