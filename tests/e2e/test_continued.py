"""A finished run, and one that goes on with it when more unlabelled rows have come."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from semievol_ray.demo import write_demo_data
from semievol_ray.report import write_report
from semievol_ray.results import Run
from tests.e2e.conftest import finish, semievol, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

ROWS, MORE = 120, 60


def continuing(folder: Path, earlier: Path, rows: int) -> Path:
    """The config of a run that continues another, over a corpus that has grown to so many rows."""
    path = write_run(folder, continues=str(earlier))
    write_demo_data(folder / "whole", seed=3)
    lines = (folder / "whole" / "unlabeled.csv").read_text().splitlines(keepends=True)
    (folder / "data" / "unlabeled.csv").write_text("".join(lines[: rows + 1]))
    return path


@pytest.fixture(scope="module")
def second(undisturbed, tmp_path_factory) -> Path:
    config = continuing(tmp_path_factory.mktemp("second"), undisturbed, ROWS + MORE)
    finish(config)
    return Path(yaml.safe_load(config.read_text())["run_dir"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def training_rows(run: Path) -> pa.Table:
    (folder,) = (run / "round-1/evolve").glob("attempt-*/examples")
    return pa.concat_tables(pq.read_table(p) for p in sorted(folder.rglob("*.parquet")))


def test_only_what_came_is_labelled_and_the_earlier_model_labels(undisturbed, second) -> None:
    before, run = Run(str(undisturbed)), Run(str(second))
    old, new = (set(r.examples("unlabeled")["example_id"].to_pylist()) for r in (before, run))
    assert len(old) == ROWS and len(new) == MORE and not old & new
    (ingest,) = [m for m in run.manifests if m.stage == "ingest"]
    assert ingest.statistics["rows_had_before"] == ROWS
    assert set(run.responses()["example_id"].to_pylist()) == new
    # The evolved model was copied, and answers the test set as it did.
    copied = files_of(Path(run.model_path(0)))
    assert copied == files_of(Path(before.model_path())) and any("safetensors" in n for n in copied)
    assert run.metrics is not None
    assert set(run.metrics["models"]) == {"vanilla", "earlier", "SemiEvol"}
    assert run.predictions("earlier")["answer"] == before.predictions("SemiEvol")["answer"]
    page = Path(write_report(run).html).read_text()
    assert "the run that this one continues" in page and "trained on, of the runs before" in page


def test_it_learns_from_what_was_trusted_before_and_now(undisturbed, second) -> None:
    before, run = Run(str(undisturbed)), Run(str(second))
    trusted = [
        set(r.selection().filter(pa.compute.field("selected"))["example_id"].to_pylist())
        for r in (before, run)
    ]
    labels = set(run.examples("labeled")["example_id"].to_pylist())
    learnt = training_rows(second)
    assert sorted(learnt["example_id"].to_pylist()) == sorted(labels | trusted[0] | trusted[1])
    assert len(learnt) == len(labels) + len(trusted[0]) + len(trusted[1])
    # Word for word what the earlier run trained on.
    prompts = {r["example_id"]: r["prompt"] for r in training_rows(undisturbed).to_pylist()}
    now = {r["example_id"]: r["prompt"] for r in learnt.to_pylist()}
    assert {i: now[i] for i in trusted[0]} == {i: prompts[i] for i in trusted[0]}


def test_a_third_knows_the_rows_of_both(second, tmp_path) -> None:
    none_new = continuing(tmp_path / "none", second, ROWS + MORE)
    done = semievol("run", str(none_new))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"unlabeled: 0 rows; left out: {ROWS + MORE} that the run before had" in done.stderr
    few_new = continuing(tmp_path / "few", second, ROWS + MORE + 20)
    done = semievol("run", str(few_new), "--until", "ingest", "--set", "data.max_unlabeled_rows=5")
    assert done.returncode == 0, done.stderr
    run = Run(yaml.safe_load(few_new.read_text())["run_dir"])
    assert len(run.examples("unlabeled")) == 5
