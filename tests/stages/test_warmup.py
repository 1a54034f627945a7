"""What the warm-up is trained on: labels, with demonstrations where it is told to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.stages import holdout, warmup
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import write_labeled
from tests.stages.ingesting import ingested

LABELS = 24


@pytest.fixture
def context(tmp_path: Path, tiny_model: Path) -> Context:
    topics = ["red apple", "red rose", "blue sky", "blue sea"]
    rows = [f"l{i},{topics[i % 4]} number {i},{topics[i % 4][:4].strip()}" for i in range(LABELS)]
    model = {"name": str(tiny_model), "engine": "transformers"}
    labeled = "\n".join(["id,question,answer", *rows]) + "\n"
    values = {"model": model, "data": {"shard_rows": 10}}
    return ingested(tmp_path, values, labeled, "id,question\nu,a red boat\n")


def prompts(context: Context, folder: str, **options: Any) -> dict[str, str]:
    found = {}
    for name in write_labeled(context, folder, **options):
        for row in context.run.read_table(name).to_pylist():
            found[row["example_id"]] = row["prompt"]
    return found


def shown_in(prompt: str) -> list[int]:
    """The numbers of the labels in a prompt, its own last."""
    words = prompt.split()
    return [int(b) for a, b in itertools.pairwise(words) if a == "number"]


def test_labels_show_from_none_to_so_many_of_their_nearest_others(context: Context) -> None:
    found = prompts(context, "a", shots=2)
    counts = []
    for number in range(LABELS):
        *shown, own = shown_in(found[f"l{number}"])
        assert own == number and number not in shown and len(set(shown)) == len(shown)
        # The words are those of the same topic, whose labels are nearest.
        assert all(other % 4 == number % 4 for other in shown)
        counts.append(len(shown))
    assert set(counts) == {0, 1, 2} and max(counts.count(n) for n in range(3)) < LABELS * 2 / 3
    assert prompts(context, "b", shots=2) == found
    # Without any it is as it was.
    assert all(shown_in(p) == [int(i[1:])] for i, p in prompts(context, "c").items())


def test_labels_that_are_held_out_are_shown_to_no_other(context: Context) -> None:
    held = {f"l{number}" for number in range(0, LABELS, 2)}
    found = prompts(context, "d", shots=3, without=held)
    assert found.keys() == {f"l{number}" for number in range(1, LABELS, 2)}
    shown = {number for prompt in found.values() for number in shown_in(prompt)}
    assert shown == set(range(1, LABELS, 2))


@pytest.mark.parametrize("stage", [warmup.STAGE, holdout.STAGE])
def test_runs_without_it_stay_what_they_are(context: Context, stage: Any) -> None:
    plain = context.config
    shots = plain.model_copy(update={"warmup": plain.warmup.model_copy(update={"shots": 2})})
    before, after = stage.settings(plain, 1), stage.settings(shots, 1)
    assert "warmup" not in before and "retrieval" not in before
    assert after["warmup"] == {"shots": 2} and after["retrieval"]["embedder"] == "tfidf"
