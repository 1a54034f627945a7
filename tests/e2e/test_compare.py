"""Arms beside each other: what they share is not done again, and a comparison goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from semievol_ray.results import Run
from tests.e2e.conftest import semievol

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ARMS = ["vanilla", "sft", "tfidf-lr", "config", "no-as", "rag-faiss", "rag-bm25", "all-labels"]


def beside(undisturbed: Path, folder: Path) -> tuple[Path, Path, int]:
    """The undisturbed run's config with another run directory: file, comparison's folder, seed."""
    values = yaml.safe_load((undisturbed.parent / "semievol.yaml").read_text())
    values["run_dir"] = str(folder / "run")
    config = folder / "semievol.yaml"
    config.write_text(yaml.safe_dump(values))
    return config, folder / "run-compare", values["seed"]


def test_arms_share_what_they_can_and_go_on(undisturbed, tmp_path) -> None:
    config, folder, seed = beside(undisturbed, tmp_path)
    # The config's own arm is done already, but for the classifier that is asked for now.
    before = folder / f"seed-{seed}" / "config"
    before.parent.mkdir(parents=True)
    shutil.copytree(undisturbed, before)

    done = semievol("compare", str(config), "--at-once", "2", "--arms", *ARMS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "compare.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["config", *(a for a in ARMS if a != "config")]
    assert all(len(rows[str(seed)]) == 60 for rows in found["right"].values())
    assert done.stdout.splitlines()[0].startswith("arm") and (folder / "compare.md").is_file()

    def made(arm: str) -> dict[str, str | None]:
        run = Run(str(folder / f"seed-{seed}" / arm))
        return {m.stage: m.finished_at for m in run.manifests}

    theirs, ours = made("config"), made("no-as")
    assert ours["warmup"] == theirs["warmup"]
    assert ours["round-1/generate"] == theirs["round-1/generate"]
    selected = Run(str(Path(before).parent / "no-as")).selection()
    answered = selected["pseudo_answer"].is_valid().to_pylist()
    assert selected["selected"].to_pylist() == answered

    again = semievol("compare", str(config), "--arms", *ARMS)
    assert again.returncode == 0, again.stderr[-3000:]
    assert made("config") == theirs and made("no-as") == ours
    assert "responses/s" not in again.stderr and "steps, loss" not in again.stderr
    assert json.loads((folder / "compare.json").read_text())["right"] == found["right"]


def test_without_an_arm_that_evolves_nothing_is_evolved(undisturbed, tmp_path) -> None:
    config, folder, seed = beside(undisturbed, tmp_path)
    # The warm-up is done already, and nothing else.
    before = folder / f"seed-{seed}" / "labels"
    for name in ("semievol-run.json", "config.json", "ingest", "warmup", "manifests/ingest.json",
                 "manifests/warmup.json"):  # fmt: skip
        (before / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (undisturbed / name).is_dir() else shutil.copyfile
        copy(undisturbed / name, before / name)
    arms = ["vanilla", "sft", "tfidf-lr"]
    done = semievol("compare", str(config), "--at-once", "2", "--arms", *arms)
    assert done.returncode == 0, done.stderr[-3000:]
    right = json.loads((folder / "compare.json").read_text())["right"]
    of_whole_run = Run(str(undisturbed))
    for arm, model in (("vanilla", "vanilla"), ("sft", "SFT")):
        table = of_whole_run.predictions(model).sort_by("example_id")
        assert right[arm][str(seed)] == "".join(str(int(x)) for x in table["correct"].to_pylist())
    run = Run(str(before))
    assert {m.stage for m in run.manifests} == {"ingest", "warmup"} and len(right) == 3
    # Under another config it is asked anew, and under the same one not.
    asked = before / "vanilla" / "attempt-1" / "predictions" / "asked.json"
    kept, written = asked.read_text(), asked.stat().st_mtime_ns
    for setting, same in (("evaluation.max_tokens=3", False), ("evaluation.max_tokens=3", True)):
        done = semievol("compare", str(config), "--arms", "vanilla", "--set", setting)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (asked.stat().st_mtime_ns == written) is same and asked.read_text() != kept
        written = asked.stat().st_mtime_ns
