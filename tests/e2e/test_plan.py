"""A plan from a small run of the real thing: it says what comes, and leaves nothing behind."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import semievol, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_plan_names_every_stage_and_leaves_no_trace(tmp_path) -> None:
    config = write_run(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = semievol("plan", str(config), "--rows", "2M", "--probe-rows", "16")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    stages = [line.split()[0] for line in done.stdout.splitlines()[3:] if line.strip()]
    assert stages[:6] == ["warmup", "round-1/generate", "round-1/select", "round-1/evolve",
                          "baselines", "round-1/evaluate"]  # fmt: skip
    assert "24 labels, about 2,000,000 unlabelled and " in done.stdout
