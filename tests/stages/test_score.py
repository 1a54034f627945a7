"""Agreed answers under the warm model: one model, one prompt, for every entropy (Eq. 6)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray.config import ModelConfig, TaskConfig
from semievol_ray.config_file import load_config
from semievol_ray.engines.protocol import Sampling
from semievol_ray.schema import EXAMPLE, RESPONSE
from semievol_ray.stages import justify, score
from semievol_ray.stages.answering import ResolvedCollaborator, ShardJob
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task
from tests.engines.asking import options

TASK = Task.from_config(TaskConfig(kind="text", instruction=""))
SAID = {  # canonical and written answer of each response, with its NLL
    "a": [("the parcel", "The parcel.", 0.9), ("the parcel", "the parcel", 0.1), ("x", "x", 0.05)],
    "b": [("returns", "Returns", 2.0)],
    "c": [(None, None, 0.1)],  # nothing was said
    "d": [("sales", "Sales", 0.5)],  # justified
}


def written(run: RunDirectory) -> None:
    examples = [{"example_id": name, "question": f"Which team has {name}?"} for name in SAID]
    run.write_table("ingest/shard-00000.parquet", pa.Table.from_pylist(examples, schema=EXAMPLE))
    rows = [response(name, *said) for name, votes in SAID.items() for said in votes]
    run.write_table("generated/shard-00000.parquet", pa.Table.from_pylist(rows, schema=RESPONSE))
    verdict = pa.Table.from_pylist([response("d", "sales", "Sales", 0.1)], schema=RESPONSE)
    run.write_table("justified/shard-00000.parquet", verdict)


def response(name: str, answer: str | None, text: str | None, nll: float) -> dict[str, Any]:
    return {"example_id": name, "collaborator": "warm-1shot", "answer": answer,
            "answer_text": text, "finish_reason": "stop", "prompt_tokens": 1, "tokens": 1,
            "token_logprobs": [-nll], "seed": 0}  # fmt: skip


def test_winners_are_scored_as_they_are_written_and_verdicts_left_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from semievol_ray.engines.transformers_engine import TransformersEngine

    run = RunDirectory(str(tmp_path / "run"))
    written(run)
    base = ModelConfig(name=str(tiny_model), engine="transformers")
    voter = ResolvedCollaborator("score", base, None, 0, Sampling(0.0, 1.0, 1))
    job = ShardJob(run, TASK, (voter,), 0, score_options=False)
    scoring = score.Scoring(job, "generated", "justified")
    pair = ("ingest/shard-00000.parquet", "scored/shard-00000.parquet")
    target, counts = asyncio.run(
        score.score_shard(TransformersEngine(base, options()), scoring, pair)
    )
    rows = {row["example_id"]: row for row in run.read_table(target).to_pylist()}
    assert counts.rows == 2 and rows.keys() == {"a", "b"}
    # Of the winner's votes the surest, under no demonstrations.
    assert rows["a"]["answer_text"] == "the parcel"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for name, row in rows.items():
        prompt = tokenizer(f"Which team has {name}?\nAnswer:")["input_ids"]
        answer = tokenizer(f" {row['answer_text']}", add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum()
        assert row["tokens"] == len(answer)
        assert row["logprob"] == pytest.approx(wanted.item(), abs=1e-3)


def test_the_warm_model_is_shown_answers_as_they_are_written(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    written(run)
    job = ShardJob(run, TASK, (), 0, score_options=False)
    proposals = justify._proposals(job, "generated/shard-00000.parquet")
    assert [p.text for p in proposals["a"]] == ["The parcel.", "the parcel", "x"]
    # Two spellings of one answer do not differ.
    agreeing = proposals["a"][:2]
    assert not justify._is_open(agreeing, True) and justify._is_open(proposals["a"], True)


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({}, False),  # all is justified
        ({"justify": {"when": "never"}}, True),  # behind demonstrations
        ({"justify": {"when": "disagreement"}}, True),
        ({"justify": {"when": "never"}, "collaborators": [{"model": "base"}]}, True),
        ({"justify": {"when": "never"}, "collaborators": [{"model": "warm"}] * 2}, False),
        ({"justify": {"when": "never"}, "selection": {"policy": "balanced"}}, False),
        ({"preset": "upstream"}, False),
    ],
)
def test_scoring_is_wanted_where_entropies_would_be_of_several_kinds(
    sections: dict[str, Any], wanted: bool
) -> None:
    values = {"run_dir": "run", "model": {"name": "m"}, "task": {"kind": "text"},
              "data": {"labeled": "l.csv", "unlabeled": "u.csv"}}  # fmt: skip
    assert score.STAGE.wanted(load_config(values | sections)) is wanted
