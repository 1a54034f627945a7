"""A model handed on: what is in it, what is said of it, and that nothing of this machine is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semievol_ray import UserError
from semievol_ray.cli import main
from semievol_ray.push import push
from semievol_ray.results import Run
from semievol_ray.store import layout
from tests.hub import hub
from tests.report.making import make_run

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run whose evolved model is an adapter."""
    made = make_run(tmp_path / "made")
    root = Path(made.run.uri)
    for stage in ("warmup", "round-1/evolve"):
        if stage == "warmup":
            manifest = json.loads((root / layout.manifest("round-1/evolve")).read_text())
            manifest |= {"stage": "warmup", "outputs": {}, "statistics": {"examples": 12}}
            (root / layout.manifest("warmup")).write_text(json.dumps(manifest))
        folder = root / stage / "attempt-1" / "model"
        folder.mkdir(parents=True)
        settings = {"base_model_name_or_path": "/home/me/base", "r": 4}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
        (folder / "README.md").write_text("base: /home/me/base")
    manifest = json.loads((root / layout.manifest("round-1/evolve")).read_text())
    manifest["statistics"] = {"examples": 33}
    (root / layout.manifest("round-1/evolve")).write_text(json.dumps(manifest))
    return made.run


def test_a_folder_holds_the_model_and_both_cards(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert main(["push", run.uri, "--to", str(target), "--base", "org/base"]) == 0
    assert (target / "adapter_model.safetensors").read_bytes() == WEIGHTS
    settings = json.loads((target / "adapter_config.json").read_text())
    assert settings == {"base_model_name_or_path": "org/base", "r": 4}
    card, data = (target / "README.md").read_text(), (target / "DATA_CARD.md").read_text()
    assert "base_model: org/base" in card and "SemiEvol against SFT" in card and "| 33 |" in card
    assert "| unlabeled rows | 60 |" in data and "| red | 1 |" in data
    # No path of this machine, and no row of the data.
    for path in target.iterdir():
        content = path.read_bytes()
        assert b"/home/me" not in content and str(tmp_path).encode() not in content
        assert b"what colour" not in content
    with pytest.raises(UserError, match="is there already"):
        push(run, str(target), base="org/base")


def test_a_model_that_no_evolution_counts_for_says_so(run: Run, tmp_path: Path) -> None:
    (Path(run.uri) / layout.manifest("round-1/evolve")).unlink()
    push(Run(run.uri), str(tmp_path / "out"), base="org/base")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "on labels alone" in card and "pseudo-answers" not in card and "| 12 |" in card


def test_an_adapter_of_a_base_that_nobody_else_has_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(run.uri) / layout.CONFIG
    values = json.loads(config.read_text())
    values["model"]["name"] = "/home/me/base"
    config.write_text(json.dumps(values))
    assert main(["push", run.uri, "--to", str(tmp_path / "out")]) == 2
    assert "--base" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_hub_is_given_all_of_it_and_a_repository_is_private(run: Run) -> None:
    with hub() as there:
        done = _push_to(there.url, run, "me/model")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{there.url}/me/model"
        (made,) = there.made
        assert made["name"] == "model"
        assert made.get("private") is True or made.get("visibility") == "private"
        files = there.files["me/model"]
        assert set(files) == {
            "adapter_config.json", "adapter_model.safetensors", "README.md", "DATA_CARD.md",
        }  # fmt: skip
        assert files["adapter_model.safetensors"] == WEIGHTS
        assert there.tokens == {"Bearer hf_planted"}


def test_a_hub_that_refuses_is_one_line(run: Run) -> None:
    with hub() as there:
        there.refuses = True
        done = _push_to(there.url, run, "me/model")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "403" in done.stderr and "hf_planted" not in done.stderr


def test_a_name_that_no_repository_has_is_one_line(run: Run) -> None:
    done = _push_to("http://127.0.0.1:9", run, "no/such/name")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_a_run_without_a_model_is_one_line(tmp_path: Path) -> None:
    from tests.stages.ingesting import ingested

    rows = "id,question,answer\nl,a,red\n"
    context = ingested(tmp_path, {"model": {"name": "x"}}, rows, "id,question\nu,b\n")
    with pytest.raises(UserError, match="nothing was trained yet"):
        push(Run(context.run.uri), str(tmp_path / "out"))


def _push_to(url: str, run: Run, name: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads where the hub is as it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": url, "HF_TOKEN": "hf_planted", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "semievol_ray", "push", run.uri, "--to", name]
    command += ["--base", "org/base"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
