"""Two rounds with a guard, on a run that had one and none, killed in the second."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from semievol_ray.results import Run
from semievol_ray.stages import guard
from tests.e2e.conftest import start

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def tables(folder: Path, pattern: str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(folder.rglob(pattern))))


def test_a_second_round_labels_all_anew_and_is_judged_by_labels_unseen(
    undisturbed, tmp_path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    values = yaml.safe_load((undisturbed.parent / "semievol.yaml").read_text())
    values |= {
        "run_dir": str(run),
        "iteration": {"rounds": 2, "mode": "relabel", "guard": True},
        "calibration": {"share": 0.25},
        "evaluation": {"closed_answers": "score"},
    }
    config = tmp_path / "semievol.yaml"
    config.write_text(yaml.safe_dump(values))

    # What the first round evolved knows all labels and can be judged by none: it is evolved anew.
    driver = start(config)
    try:
        deadline = time.monotonic() + 600
        while not list((run / "round-2" / "generate").rglob("shard-*.parquet")):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert start(config).wait(timeout=800) == 0, (tmp_path / "out.txt").read_text()[-3000:]

    manifests = {m.stage: m for m in Run(str(run)).manifests}
    answered = tables(run / "round-2" / "generate", "shard-*.parquet")
    voters = len(manifests["round-2/generate"].statistics["collaborators"])
    pairs = set(
        zip(*(answered[c].to_pylist() for c in ("example_id", "collaborator")), strict=True)
    )
    assert len(pairs) == len(answered) == 120 * voters, "every row is asked anew, and once"

    held = set(tables(run / "round-2" / "guard", "labels/*.parquet")["example_id"].to_pylist())
    assert len(held) == 6
    selected = tables(run / "round-2" / "select", "shard-*.parquet").filter(pc.field("selected"))
    trained = tables(run / "round-2" / "evolve", "examples/**/*.parquet")
    ids = set(trained["example_id"].to_pylist())
    assert not ids & held and len(trained) == 18 + len(selected)
    assert set(selected["example_id"].to_pylist()) <= ids

    for number in (1, 2):
        folder = run / f"round-{number}" / "guard"
        before, after = (tables(folder, f"{name}/shard-*.parquet") for name in ("before", "after"))
        assert before["example_id"] == after["example_id"] and len(before) == 6
        verdict = guard.judge(before["correct"].to_pylist(), after["correct"].to_pylist())
        assert manifests[f"round-{number}/guard"].statistics == verdict | {"kept": True}
    assert manifests["round-2/select"].statistics["changed_rows"] >= 0
    metrics = Run(str(run)).metrics
    assert metrics is not None
    assert list(metrics["models"]) == ["vanilla", "SFT", "SemiEvol round 1", "SemiEvol"]
    assert "/round-2/evolve/" in Run(str(run)).model_path()
