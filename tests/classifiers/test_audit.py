"""Labels that were turned over are found; labels that are right are mostly left alone."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

from semievol_ray import UserError, load_config, pipeline
from semievol_ray.classifiers import Classifier
from semievol_ray.classifiers.audit import audit, contradicted
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.demo.messages import TEAMS, write_messages

FIT = partial(Classifier.fit, "probe", retrieval=RetrievalConfig(), model=ModelConfig(name="any"))
MESSAGES = write_messages(200, 5)


def turned_over(share: float) -> tuple[list[tuple[str, str]], set[int]]:
    rng = np.random.default_rng(1)
    wrong = set(rng.choice(len(MESSAGES), int(share * len(MESSAGES)), replace=False).tolist())
    known = []
    for i, m in enumerate(MESSAGES):
        others = [team for team in TEAMS if team != m.team]
        known.append((m.text, str(rng.choice(others)) if i in wrong else m.team))
    return known, wrong


def test_a_class_has_a_threshold_of_its_own() -> None:
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.35, 0.65], [0.2, 0.8], [0.45, 0.55], [0.1, 0.9]])
    gold = np.array([0, 0, 0, 1, 1, 1])
    # Class 0 is reached at (0.9 + 0.7 + 0.35) / 3 = 0.65, class 1 at 0.75: 0.65 is not enough.
    assert contradicted(p, gold).tolist() == gold.tolist()
    p[2] = [0.2, 0.8]  # enough
    assert contradicted(p, gold).tolist() == [0, 0, 1, 1, 1, 1]
    # A class that nobody is labelled with is held against no label.
    assert contradicted(np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([0, 0])).tolist() == [0, 0]


def test_the_only_label_of_a_class_is_contradicted_by_nobody() -> None:
    # Out of the fold that holds it, no classifier can name its class.
    p = np.array(
        [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.1, 0.9, 0.0], [0.6, 0.4, 0]]
    )
    assert contradicted(p, np.array([0, 0, 1, 1, 2])).tolist() == [0, 0, 1, 1, 2]


def test_labels_that_were_turned_over_are_found() -> None:
    known, wrong = turned_over(0.1)
    found = audit(known, [FIT])
    rows = [c.row for c in found]
    right = len(wrong & set(rows))
    # Chance has a tenth right of what it names.
    assert right / len(rows) > 0.4 and right / len(wrong) > 0.5
    assert len(wrong & set(rows[:5])) >= 3, "the surest come first"
    assert all(c.label == known[c.row][1] and c.expected != c.label for c in found)
    assert all(c.p_expected > c.p_label for c in found)


def test_too_few_labels_are_one_line() -> None:
    with pytest.raises(UserError, match="2 labels are too few"):
        audit([("a", "red"), ("b", "blue")], [FIT])
    with pytest.raises(UserError, match="8 labels of 4 different answers are too few"):
        audit([(f"q{i}", "abcd"[i % 4]) for i in range(8)], [FIT])


def test_the_command_names_them(tmp_path: Path) -> None:
    known, wrong = turned_over(0.1)
    rows = "".join(f"m{i},{text},{team}\n" for i, (text, team) in enumerate(known))
    (tmp_path / "labeled.csv").write_text("id,question,answer\n" + rows)
    (tmp_path / "unlabeled.csv").write_text("id,question\nu,where is it\n")
    run = tmp_path / "run"
    config = load_config(
        {
            "run_dir": str(run),
            "model": {"name": "any", "engine": "simulated"},
            "task": {"kind": "label", "labels": list(TEAMS)},
            "data": {
                "labeled": str(tmp_path / "labeled.csv"),
                "unlabeled": str(tmp_path / "unlabeled.csv"),
                "columns": {"id": "id"},
            },
        }
    )
    pipeline.run(config, until="ingest")

    def labels(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "semievol_ray", "labels", str(run), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    said = labels("--csv", str(tmp_path / "wrong.csv"), "--most", "3")
    assert said.returncode == 0, said.stderr
    head, *lines, last = said.stdout.splitlines()
    assert re.fullmatch(r"\d+ of \d+ labels are contradicted by probe, fitted without them", head)
    assert len(lines) == 3 and all(", expected " in line for line in lines)
    table = pyarrow.csv.read_csv(tmp_path / "wrong.csv")
    named = {int(i[1:]) for i in table["example_id"].to_pylist()}
    assert last.endswith("wrong.csv") and len(wrong & named) > len(wrong) / 2
    again = labels("--csv", str(tmp_path / "wrong.csv"))
    assert again.returncode == 2 and "there is a file already" in again.stderr
    nowhere = labels("--csv", str(tmp_path / "no folder" / "wrong.csv"))
    assert nowhere.returncode == 2 and len(nowhere.stderr.strip().splitlines()) == 1
    assert "cannot be written: No such file or directory" in nowhere.stderr
