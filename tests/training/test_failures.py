"""How a training ends when a worker, the memory or the disk is gone: in a line that says which."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.config import TrainingConfig
from semievol_ray.errors import SemiEvolError
from semievol_ray.training import Progress, train
from semievol_ray.training.failures import WorkerLost
from tests.training.conftest import MakeJob, Workers, make_row, train_here, write_rows


@pytest.mark.chaos
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_worker_that_is_gone_is_named_within_the_time_out(
    make_job: MakeJob, tmp_path: Path, sent: signal.Signals
) -> None:
    workers = Workers(2, tmp_path, group="own")
    try:
        job = make_job(timeout_seconds=5, epochs=20, zero_stage=2)
        lost = workers.processes[1].pid
        with pytest.raises(WorkerLost, match="training worker 1 of 2 is gone") as caught:
            workers.ask("lose_worker", job, lost, sent, answering=[0])
        assert "timeout_seconds (5)" in str(caught.value) and "\n" not in str(caught.value)
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("rank", "where", "settings"),
    [
        (1, "loop.load_tokenizer", {}),
        (1, "token_cache.write_parts", {}),
        (1, "token_cache.load_parts", {}),
        (1, "models.load_model", {}),
        (1, "models.load_config", {"zero_stage": 3}),
        (0, "export.save_weights", {}),
        (0, "export.write_model_card", {}),
    ],
)
def test_what_fails_in_one_worker_ends_the_training_in_all(
    make_job: MakeJob, two_workers: Workers, rank: int, where: str, settings: dict[str, Any]
) -> None:
    module, _, name = where.rpartition(".")
    started = time.monotonic()
    with pytest.raises(Exception, match=f"{name} fails"):
        two_workers.ask("fail", make_job(**settings), rank, f"semievol_ray.training.{module}", name)
    # Both say why, and neither has waited for the time-out, half an hour.
    assert [f"{name} fails" in str(error) for error in two_workers.errors] == [True, True]
    assert time.monotonic() - started < 120


def test_out_of_memory_names_the_settings_that_help(make_job: MakeJob, tmp_path: Path) -> None:
    words = "x" * 450
    rows = [make_row(i, soft=False) | {"prompt": words} for i in range(128)]
    workers = Workers(1, tmp_path, group="own")
    try:
        job = make_job(
            write_rows(tmp_path / "long.parquet", rows),
            global_batch_size=128,
            micro_batch_size=128,
            max_length=512,
        )
        with pytest.raises(SemiEvolError, match="out of memory") as caught:
            workers.ask("limited", job, 0, "AS", 200 << 20)
    finally:
        workers.close()
    text = str(caught.value)
    for setting in (
        "micro_batch_size (128)", "max_length (512)", "gradient_checkpointing (false)",
        "zero_stage (0)", "workers (1)", "offload_optimizer (none)", "offload_parameters (none)",
    ):  # fmt: skip
        assert setting in text
    assert "\n" not in text


def test_a_checkpoint_that_one_worker_cannot_write_ends_the_training_of_all(
    make_job: MakeJob, tmp_path: Path
) -> None:
    workers = Workers(2, tmp_path, group="own")
    try:
        job = make_job(method="full", zero_stage=2, epochs=4, checkpoint_every_steps=1)
        with pytest.raises(SemiEvolError, match="worker 1 cannot write a checkpoint"):
            workers.ask("limited", job, 1, "FSIZE", 100 << 10)
        assert len({str(error) for error in workers.errors}) == 1 and len(workers.errors) == 2
    finally:
        workers.close()
    assert not list((job.scratch_dir / "checkpoints").glob("step-*/manifest.json"))
    assert not job.output_dir.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_training_at_its_last_checkpoint_and_the_next_goes_on(
    make_job: MakeJob, small_disk: Path
) -> None:
    job = make_job(method="full", epochs=4, checkpoint_every_steps=2)
    job = replace(job, scratch_dir=small_disk / "scratch", output_dir=small_disk / "out")
    filler = small_disk / "filler"

    def fill(progress: Progress) -> None:
        manifest = job.scratch_dir / "checkpoints" / "step-00000002" / "manifest.json"
        if progress.step == 3:
            while not manifest.exists():
                time.sleep(0.01)
            with filler.open("wb", buffering=0) as file:
                while not _is_full(file):
                    pass

    with pytest.raises(SemiEvolError, match="disk is full") as caught:
        train(job, on="process", on_progress=fill)
    assert "\n" not in str(caught.value)
    filler.unlink()
    result, steps = train_here(job)
    assert [p.step for p in steps] == list(range(3, 13))
    assert (result.output_dir / "model.safetensors").exists()


def _is_full(file: object) -> bool:
    try:
        file.write(bytes(1 << 16))  # type: ignore[attr-defined]
    except OSError:
        return True
    return False


def test_ray_train_tells_the_cause_and_not_its_symptoms() -> None:
    from ray.exceptions import OutOfMemoryError

    from semievol_ray.training.ray_train import _cause

    config, outer = TrainingConfig(micro_batch_size=7), RuntimeError("the group failed")
    lost, full = WorkerLost("worker 1 is gone"), SemiEvolError("the disk is full")
    assert _cause({0: lost, 1: full}, outer, config) is full
    assert _cause({0: lost, 1: RuntimeError("a\nb")}, outer, config) is lost
    assert str(_cause({1: RuntimeError("a\nb")}, outer, config)) == "training worker 1 failed: b"
    killed = OutOfMemoryError("Task was killed due to the node running low on memory.")
    assert "micro_batch_size (7)" in str(_cause({0: lost, 1: killed}, outer, config))
