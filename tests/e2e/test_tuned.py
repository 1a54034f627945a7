"""Rate and epochs left to the labels: tried, chosen, used; killed amid a try."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from semievol_ray.results import Run
from tests.e2e.conftest import semievol, start, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(900)]
TRAINING = {
    "method": "lora", "learning_rate": "auto", "epochs": "auto", "workers": 1, "precision": "fp32",
    "global_batch_size": 8,
}  # fmt: skip
TUNING = {"learning_rates": [1e-6, 1e-2], "first_epochs": 2, "most_epochs": 4, "folds": 1}


def test_labels_choose_the_rate_and_the_epochs(tmp_path) -> None:
    config = write_run(tmp_path, training=TRAINING, tuning=TUNING)
    first = start(config)
    results = tmp_path / "run/tune/attempt-1"
    deadline = time.monotonic() + 300
    # Killed when one try is over.
    while not list(results.glob("try-*/result.json")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (tried,) = results.glob("try-*/result.json")
    kept = tried.stat().st_mtime_ns

    done = semievol("run", str(config), "--until", "warmup")
    assert done.returncode == 0, done.stderr[-3000:]
    assert tried.stat().st_mtime_ns == kept, "a try that was over was done again"
    run = Run(str(tmp_path / "run"))
    manifests = {m.stage: m for m in run.manifests}
    found = manifests["tune"].statistics
    tries = found["tries"]
    assert [(t["learning_rate"], t["epochs"]) for t in tries[:2]] == [(1e-6, 2), (1e-2, 2)]
    assert len(tries) == 3 and tries[2]["epochs"] == 4 and found["judged"] == 4
    best = max(tries, key=lambda t: (t["exact_match"], -t["loss"]))
    assert found["chosen"] == {k: best[k] for k in ("learning_rate", "epochs")}
    # Of a base that knows nothing of the task the rate that moves nothing is not the best one.
    assert best["learning_rate"] == 1e-2 and tries[1]["loss"] < tries[0]["loss"]
    warm = manifests["warmup"].statistics
    assert (warm["learning_rate"], warm["epochs"]) == (1e-2, best["epochs"])
    assert warm["steps"] == best["epochs"] * 24 // 8
    # No try leaves a model, and no fold's labels are among what its try learnt.
    assert not list(results.glob("try-*/model/*")) and not list(results.glob("try-*/scratch/*"))
    assert "at most 3 fine-tunings" in done.stderr and "of 4 held-out labels right" in done.stderr
    assert json.loads(Path(tried).read_text())["held_out_loss"] is not None
