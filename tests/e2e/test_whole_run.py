"""The whole job for real: Ray, two ZeRO workers, FAISS, the Rust core; and killed on the way.

A small run of the demo's data through the command line, as a user would start it. What a
killed and continued run leaves must be, byte for byte, what an undisturbed one leaves.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from semievol_ray.results import Run
from tests.e2e.conftest import finish, semievol, start, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

TABLES = (
    "ingest", "retrieve", "baselines", "round-1/generate", "round-1/justify", "round-1/select",
    "round-1/evaluate",
)  # fmt: skip


def kill_when(config: Path, happened) -> bool:
    """Run until something has happened, then SIGKILL everything; false where it finished first."""
    process = start(config)
    while not happened():
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def table_bytes(run: Path) -> dict[str, bytes]:
    files = (p for name in TABLES for p in (run / name).rglob("*") if p.is_file())
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def test_the_run_leaves_all_it_promises(undisturbed) -> None:
    run = Run(str(undisturbed))
    assert len(run.examples("labeled")) == 24
    responses = run.responses()
    assert len(responses) == 120 * 4
    assert set(responses["collaborator"].to_pylist()) == {f"warm-{n}shot" for n in range(4)}
    assert responses["option_logprobs"].null_count == 0
    assert {len(row) for row in responses["option_logprobs"].to_pylist()} == {6}
    selection = run.selection()
    assert len(selection) == 120
    assert sum(selection["selected"].to_pylist()) > 0
    assert run.metrics is not None
    assert set(run.metrics["models"]) == {"vanilla", "SFT", "SemiEvol"}
    assert all(found["rows"] == 60 for found in run.metrics["models"].values())
    assert {m.state for m in run.manifests} == {"done"}
    # No pickle and no training checkpoint in what is left.
    names = [p.name for p in undisturbed.rglob("*") if p.is_file()]
    assert not [n for n in names if n.endswith((".pt", ".bin", ".pkl", ".pth"))]


def test_the_screen_shows_stages_and_figures_and_the_rest_is_in_logs(undisturbed) -> None:
    screen = (undisturbed.parent / "out.txt").read_text()
    stages = (
        "ingest",
        "warmup",
        "retrieve",
        "baselines",
        "round-1/generate",
        "round-1/select",
        "round-1/evaluate",
    )
    known = (*stages, "generate", "round-1/", "evolve", "evaluate", "justify", "select",
             "replicas")  # fmt: skip
    table = screen.index("model ")
    assert all(line.startswith(known) for line in screen[:table].splitlines() if line.strip())
    for word in ("DeepSpeed", "raylet", "WARNING", "Traceback"):
        assert word not in screen
    logs = [p.name for p in (undisturbed / "logs").iterdir()]
    assert any(name.startswith("replica-") for name in logs)


def test_the_adapter_loads_in_transformers_unchanged(undisturbed, tiny_model) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    folder = Path(Run(str(undisturbed)).model_path())
    adapted = PeftModel.from_pretrained(base, str(folder))
    assert any("lora" in name for name, _ in adapted.named_parameters())
    assert (folder / "README.md").is_file(), "a model card belongs to a model"


def test_killed_at_every_boundary_and_amid_stages(undisturbed, tmp_path) -> None:
    """SIGKILL of the driver and all it started; then the same command again."""
    config = write_run(tmp_path)
    run = tmp_path / "run"

    def done(stage: str):
        manifest = run / "manifests" / f"{stage}.json"
        return lambda: manifest.exists() and '"state": "done"' in manifest.read_text()

    moments = [
        done("ingest"),
        lambda: any((run / "warmup").glob("attempt-*/examples/*/*")),
        done("warmup"),
        lambda: any((run / "round-1" / "generate").glob("attempt-*/shard-*.parquet")),
        done("round-1.justify"),
        done("round-1.select"),
        lambda: any((run / "baselines").rglob("shard-*.parquet")),
        lambda: any((run / "round-1" / "evaluate").rglob("shard-*.parquet")),
    ]
    killed = sum(kill_when(config, moment) for moment in moments)
    finish(config)
    assert killed >= 5, "too few of the kills came before the end"
    # Nothing half-written stays behind where results lie.
    assert not [p for name in TABLES for p in (run / name).rglob(".*")]
    # Half-read files are read anew: a second attempt of ingest, under its own number.
    ours, wanted = (
        {re.sub(r"attempt-\d+", "attempt", name): data for name, data in table_bytes(r).items()}
        for r in (run, undisturbed)
    )
    assert ours.keys() == wanted.keys()
    assert [name for name in wanted if ours[name] != wanted[name]] == []


def test_a_finished_run_is_left_alone_and_a_changed_one_refused(undisturbed) -> None:
    config = undisturbed.parent / "semievol.yaml"
    before = table_bytes(undisturbed)
    finish(config)
    assert table_bytes(undisturbed) == before
    found = semievol("run", str(config), "--set", "training.learning_rate=0.5")
    assert found.returncode == 2
    assert "setting training.learning_rate was" in found.stderr
    assert found.stderr.count("\n") == 1
    # What says only how fast may change at any time.
    assert semievol("run", str(config), "--set", "generation.batch_rows=3").returncode == 0


def test_reselection_needs_no_engine(undisturbed) -> None:
    before = table_bytes(undisturbed)
    found = semievol(
        "select", str(undisturbed), "--set", "selection.policy=balanced",
        "--set", "selection.percentile=30",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "selected" in found.stdout and "selections/" in found.stdout
    assert table_bytes(undisturbed) == before
    refused = semievol("select", str(undisturbed), "--set", "training.epochs=9")
    assert refused.returncode == 2 and "only selection.*" in refused.stderr


def test_status_and_evaluate_read_the_run(undisturbed) -> None:
    status = semievol("status", str(undisturbed))
    assert status.returncode == 0
    assert "round-1/select" in status.stdout and "McNemar" in status.stdout
    assert semievol("evaluate", str(undisturbed)).returncode == 0
    missing = semievol("status", str(undisturbed / "nowhere"))
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


def test_evaluating_otherwise_asks_the_baselines_only_where_they_are_asked_otherwise(
    undisturbed, tmp_path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)

    def attempts() -> list[int]:
        found = {m.stage: m.attempt for m in Run(str(run)).manifests}
        return [found["baselines"], found["round-1/evaluate"]]

    first = attempts()
    surer = semievol("evaluate", str(run), "--set", "evaluation.confidence=0.9")
    assert surer.returncode == 0, surer.stderr
    assert attempts() == [first[0], first[1] + 1]
    shown = semievol("evaluate", str(run), "--set", "evaluation.shots=1")
    assert shown.returncode == 0, shown.stderr
    assert attempts() == [first[0] + 1, first[1] + 2]


def test_a_run_directory_beside_the_data_deletes_nothing(tmp_path) -> None:
    """`run_dir: .` next to `data/`: refused, and every file of the user's is still there."""
    config = write_run(tmp_path, run_dir=str(tmp_path))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for options in ((), ("--redo", "ingest")):
        found = semievol("run", str(config), *options)
        assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr
        assert "run_dir" in found.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_two_drivers_and_one_that_is_told_to_stop(tmp_path) -> None:
    config = write_run(tmp_path)
    first = start(config)
    lease = tmp_path / "run" / "lease"
    while not (lease.is_dir() and any(lease.iterdir())):
        assert first.poll() is None
        time.sleep(0.05)
    second = semievol("run", str(config))
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"process {first.pid} on " in second.stderr and "semievol status" in second.stderr
    # In a stage, and not while Ray starts: there its own handler has the word.
    while "warmup:" not in (tmp_path / "out.txt").read_text():
        assert first.poll() is None
        time.sleep(0.05)
    first.terminate()
    assert first.wait(timeout=60) == 130
    out = (tmp_path / "out.txt").read_text()
    assert "Traceback" not in out and "run the same command again to go on" in out
    assert not any(lease.iterdir()), "it left its claim behind"
    again = semievol("run", str(config), "--until", "retrieve")
    assert again.returncode == 0, again.stderr
