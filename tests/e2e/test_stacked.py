"""Voters of several kinds, weighed by what they say of labels that the warm model had not seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from semievol_ray import load_classifier
from semievol_ray.results import Run
from tests.e2e.conftest import semievol

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_voters_are_weighed_by_labels_that_they_had_not_seen(undisturbed, tmp_path) -> None:
    run, before = tmp_path / "run", (undisturbed.parent / "semievol.yaml").read_text()
    shutil.copytree(undisturbed, run)
    values = yaml.safe_load(before)
    values["run_dir"] = str(run)
    values["collaborators"] = [
        {"model": "warm"},
        {"model": "warm-2"},
        {"model": "base", "shots": 1},
        {"model": "probe"},
        {"model": "neighbours"},
        {"model": "propagation"},
    ]
    values["justify"] = {"when": "never"}
    # The most that is taught.
    values["selection"] = {"policy": "stacked", "percentile": 100}
    values["evolve"] = values.get("evolve", {}) | {"soft_targets": True}
    values["calibration"] = {"share": 0.25}
    values["evaluation"]["references"] = [{"embedder": "tfidf"}]
    config = Path(tmp_path / "semievol.yaml")
    config.write_text(yaml.safe_dump(values))

    refused = semievol("select", str(undisturbed), "--set", "selection.policy=stacked")
    assert refused.returncode == 2 and "calibrate" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

    done = semievol("run", str(config), "--redo", "warmup", "--until", "round-1/select")
    assert done.returncode == 0, done.stderr[-3000:]
    labels = pq.read_table(next((run / "calibrate").rglob("labels/*.parquet")))
    held = set(labels["example_id"].to_pylist())
    trained = pq.read_table(next((run / "holdout").rglob("examples/labeled/*.parquet")))
    # Two warm-ups, each under its own seed, with all labels and without those held out.
    adapters = [
        next((run / stage).rglob(f"{folder}model/adapter_model.safetensors")).read_bytes()
        for stage in ("warmup", "holdout")
        for folder in ("attempt-*/", "warm-2/")
    ]
    assert len(set(adapters)) == 4
    assert len(held) == 6 and not held & set(trained["example_id"].to_pylist())
    assert len(trained) == 18
    answered = [pq.read_table(p) for p in (run / "calibrate").rglob("part-*/shard-*.parquet")]
    said = {(r["example_id"], r["collaborator"]) for t in answered for r in t.to_pylist()}
    classifiers = {"probe-0shot", "neighbours-0shot", "propagation-0shot"}
    names = {"warm-0shot", "warm-2-0shot", "base-1shot", *classifiers}
    assert said == {(name, who) for name in held for who in names}

    found = Run(str(run))
    (selected,) = [m for m in found.manifests if m.stage == "round-1/select"]
    voters = selected.statistics["voters"]
    assert set(voters) == names and all(v["weight"] >= 0 for v in voters.values())
    selection = found.selection()
    assert len(selection) == 120 and pc.sum(selection["selected"]).as_py() == 120

    # Another promise, from the same responses: nothing is generated.
    risky = semievol("select", str(run), "--set", "selection.policy=risk",
                     "--set", "selection.options.alpha=0.4")  # fmt: skip
    assert risky.returncode == 0, risky.stderr
    assert "6 held-out labels" in risky.stdout
    again = semievol("run", str(config), "--until", "round-1/select")
    assert again.returncode == 0 and again.stderr.count("already done") == 7, again.stderr

    # To the end: the classifiers that voted have learnt what was selected, and are left to be used.
    ended = semievol("run", str(config))
    assert ended.returncode == 0, ended.stderr[-3000:]
    left, metrics = Run(str(run)).classifiers, Run(str(run)).metrics
    assert left.keys() == classifiers and metrics is not None
    assert all(f"a classifier, {who}: {folder}" in ended.stdout for who, folder in left.items())
    test = Run(str(run)).examples("test")
    for who, folder in left.items():
        assert sorted(p.suffix for p in Path(folder).iterdir()) == [".json", ".safetensors"]
        said = load_classifier(folder).classify(test["question"].to_pylist())
        gold = map(str.casefold, test["answer"].to_pylist())
        right = [a.casefold() == b for a, b in zip(said, gold, strict=True)]
        predicted = found.predictions(f"{who}, refitted")
        assert predicted["correct"].to_pylist() == right
        assert metrics["models"][f"{who}, refitted"]["correct"] == sum(right)
    # What a user would try first knows the labels alone, and a report holds all of it.
    assert metrics["models"]["TF-IDF + LR"]["rows"] == 60
    assert "TF-IDF + LR against SemiEvol" in ended.stdout
    assert semievol("report", str(run)).returncode == 0
    assert "TF-IDF + LR" in (run / "report.html").read_text()
    (fitted,) = [m for m in found.manifests if m.stage == "round-1/classifiers"]
    chosen = pc.sum(selection["selected"]).as_py()
    assert fitted.statistics == {"after_round": 1, "examples": 24 + chosen}
    # Each row is taught as doubtful as the voters were.
    taught = [pq.read_table(p) for p in (run / "round-1").rglob("examples/selected-1/*.parquet")]
    answers = [len(row) for t in taught for row in t["candidates"].to_pylist()]
    assert len(answers) == chosen and max(answers) > 1
