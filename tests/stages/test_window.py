"""How long a context a run needs: enough for its longest prompt, and far from a model's 128k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from semievol_ray.config_file import load_config
from semievol_ray.stages import ingest
from semievol_ray.stages.context import Context
from semievol_ray.stages.window import asks_for_window, window_tokens
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.tasks import PromptRenderer

LONG = "where is the parcel für die ich 12 € zahlte? 在哪里 " * 60


def context_of(tmp_path: Path, model: Path, settings: dict[str, Any] | None = None) -> Context:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "labeled.csv").write_text(f"question,answer\nfirst,no\n{LONG} 1,yes\nlast,no\n")
    (tmp_path / "unlabeled.csv").write_text(f"question\nwhat else\n{LONG} 2\n")
    (tmp_path / "test.csv").write_text("question,answer\nwhat now,yes\n")
    data = {n: str(tmp_path / f"{n}.csv") for n in ("labeled", "unlabeled", "test")}
    values = {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(model), "engine": "vllm"},
        "task": {"kind": "label", "instruction": "Say yes or no."},
        "data": data,
    }
    config = load_config(values | (settings or {}))
    run = RunDirectory(config.run_dir)
    context = Context(config, run, StageLedger(run))
    context.ledger.begin("ingest", {}, {})
    done = ingest.run(context, 1)
    context.ledger.finish("ingest", done.outputs, (), done.statistics, 0)
    return context


def rows_of(context: Context, split: str) -> list[dict[str, Any]]:
    return [r for name in context.shards(split) for r in context.run.read_table(name).to_pylist()]


def test_the_longest_example_is_known_wherever_it_is(tmp_path, tiny_model) -> None:
    context = context_of(tmp_path, tiny_model, {"data": data_of(tmp_path) | {"shard_rows": 1}})
    assert context.ingested.longest is not None
    for split, mark in (("labeled", "1"), ("unlabeled", "2")):
        shard, row = context.ingested.longest[split]
        (found,) = context.run.read_table(shard).slice(row, 1).to_pylist()
        assert found["question"].endswith(mark)


def data_of(tmp_path: Path) -> dict[str, Any]:
    return {n: str(tmp_path / f"{n}.csv") for n in ("labeled", "unlabeled", "test")}


@pytest.mark.parametrize("template", [None, "{{ question }}\n{{ question }}\n{{ question }}"])
def test_every_prompt_and_its_response_find_room(tmp_path, tiny_model, template) -> None:
    task = {"kind": "label", "instruction": "Say yes or no."}
    settings = {"task": task | ({"question_template": template} if template else {})}
    context = context_of(tmp_path, tiny_model, settings)
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(tiny_model), "auto")
    longest = max(rows_of(context, "labeled"), key=lambda row: len(row["question"]))
    most = max(
        renderer.count_tokens(renderer.render(messages))
        for split in ("labeled", "unlabeled", "test")
        for row in rows_of(context, split)
        for messages in (
            context.task.messages(row, [longest] * 3),
            context.task.justify_messages(row, ["yes", "no", "yes", "no"]),
        )
    )
    window = window_tokens(context)
    assert window is not None and most + context.config.evaluation.max_tokens <= window
    assert window <= 2.5 * (most + context.config.evaluation.max_tokens) + 1024
    assert window % 512 == 0


def test_a_long_response_has_half_of_the_window(tmp_path, tiny_model) -> None:
    context = context_of(tmp_path, tiny_model, {"evaluation": {"max_tokens": 20_000}})
    window = window_tokens(context)
    assert window is not None and window // 2 >= 20_000


def test_short_prompts_have_a_window_of_some_size(tmp_path, tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.LONG", "short")
    context = context_of(tmp_path, tiny_model, {"evaluation": {"max_tokens": 16}})
    assert window_tokens(context) == 2048


def test_only_vllm_without_a_configured_window_is_told(tmp_path, tiny_model) -> None:
    base = context_of(tmp_path, tiny_model).base
    assert asks_for_window(base)
    assert not asks_for_window(base.model_copy(update={"max_model_len": 4096}))
    assert not asks_for_window(base.model_copy(update={"engine": "transformers"}))


def test_the_replicas_are_told(tmp_path, tiny_model) -> None:
    context = context_of(tmp_path, tiny_model)
    context.__dict__["has_gpus"] = False
    assert context.pool(context.base).options.window == window_tokens(context)
