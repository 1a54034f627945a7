"""What another terminal is told of a run, while it works and after it died."""

from __future__ import annotations

import pytest

from semievol_ray import SemiEvolError
from semievol_ray.cli import main
from semievol_ray.engines import FleetState
from semievol_ray.progress import Silent
from semievol_ray.progress.live import LiveProgress, live_line
from semievol_ray.results import Run
from semievol_ray.store import RunDirectory, StageLedger, layout


def test_status_says_how_far_a_stage_is_and_how_its_replicas_are(tmp_path, capsys) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    StageLedger(run).begin("round-1/generate", {}, {})
    progress = LiveProgress(run, Silent())
    progress.start("generate", 400, "responses")
    progress._written = -100.0  # the next news is due
    progress.fleet("generate", FleetState(3, 1, 7, 6, deaths=2, retries=4))
    progress._written = -100.0
    progress.advance("generate", 100, tokens=2500)
    assert main(["status", run.uri]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("generate:"))
    assert "generate: 100/400 responses" in line
    assert "3 replicas, 1 starting, 2 died, 4 retries" in line
    assert "tokens/s" in line and "s left" in line and "seen 0 s ago" in line
    progress.finish("round-1/generate", "done")
    assert Run(run.uri).live is None


def test_the_line_of_a_run_that_died_says_its_age() -> None:
    values = {"stage": "justify", "unit": "shards", "total": None, "done": 5, "tokens": 0,
              "started": 1000.0, "at": 1010.0}  # fmt: skip
    assert live_line(values, 1100.0) == "justify: 5 shards, 0.5 shards/s; seen 90 s ago"


def test_a_store_that_cannot_be_written_does_not_stop_the_work(tmp_path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.write_json("manifests/x.json", {})
    progress = LiveProgress(run, Silent())
    (tmp_path / "run" / layout.LIVE).mkdir()
    progress.start("generate", 1, "responses")
    progress.advance("generate", 1)


def test_replicas_of_who_lost_the_lease_work_no_longer(tmp_path) -> None:
    def lost() -> None:
        raise SemiEvolError("another has taken over")

    progress = LiveProgress(RunDirectory(str(tmp_path / "run")), Silent(), lost)
    progress.start("generate", 1, "responses")
    with pytest.raises(SemiEvolError, match="taken over"):
        progress.fleet("generate", FleetState(1, 0, 1, 1, deaths=0, retries=0))
