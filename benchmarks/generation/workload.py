"""What the sides of the generation benchmark answer: one run's shards, and the same as requests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig, TaskConfig
from semievol_ray.engines import Request, Sampling, request_seed
from semievol_ray.schema import DEMONSTRATIONS, EXAMPLE
from semievol_ray.stages.answering import ResolvedCollaborator, ShardJob
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import PromptRenderer, Task

VOTERS = 4
SHARD_ROWS = 64
MAX_TOKENS = 16
SEED = 1
TASK = Task.from_config(TaskConfig(kind="multiple_choice"))


def write_run(folder: Path, examples: int) -> None:
    """A model with random weights and a run's shards: 0 to 3 demonstrations a collaborator."""
    import torch

    from semievol_ray.demo.messages import TEAMS, write_messages
    from semievol_ray.demo.model import make_llama, make_tokenizer

    rng = random.Random(SEED)
    messages = write_messages(examples + 100, SEED)
    rows: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        options = sorted({message.team, *rng.sample(TEAMS, 4)})[:4]
        rows.append(
            {
                "example_id": f"{number:06}",
                "question": message.text,
                "options": options,
                "answer": "ABCD"[options.index(message.team)] if message.team in options else "A",
            }
        )
    run = RunDirectory(str(folder / "run"))
    labeled, unlabeled = rows[:100], rows[100:]
    run.write_table("data/labeled/shard-00000.parquet", pa.Table.from_pylist(labeled, EXAMPLE))
    for start in range(0, examples, SHARD_ROWS):
        part = [row | {"answer": None} for row in unlabeled[start : start + SHARD_ROWS]]
        shown = [
            {
                "example_id": row["example_id"],
                "demonstration_ids": [r["example_id"] for r in rng.sample(labeled, VOTERS - 1)],
                "similarities": [1.0] * (VOTERS - 1),
            }
            for row in part
        ]
        name = f"unlabeled/shard-{start // SHARD_ROWS:05}.parquet"
        run.write_table(f"data/{name}", pa.Table.from_pylist(part, EXAMPLE))
        run.write_table(f"retrieve/{name}", pa.Table.from_pylist(shown, DEMONSTRATIONS))
    texts = ["\n\n".join(m["content"] for m in TASK.messages(row)) for row in labeled]
    texts += [f"Answer: {letter}" for letter in "ABCD"] * 50
    tokenizer = make_tokenizer(texts, 1024)
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(SEED)
    model = make_llama(len(tokenizer), hidden=256, layers=4, heads=8, context=1024)
    model.save_pretrained(folder / "model")


def job(folder: Path, *, score_options: bool = False) -> ShardJob:
    """The generate stage's work."""
    run = RunDirectory(str(folder / "run"))
    model = model_config(folder, "vllm")
    voters = tuple(
        ResolvedCollaborator(f"shots-{shots}", model, None, shots, Sampling(1.0, 1.0, MAX_TOKENS))
        for shots in range(VOTERS)
    )
    labeled = ("data/labeled/shard-00000.parquet",)
    return ShardJob(run, TASK, voters, SEED, score_options, labeled, "retrieve/unlabeled")


def model_config(folder: Path, engine: str) -> ModelConfig:
    return ModelConfig(name=str(folder / "model"), engine=engine, dtype="float32")


def requests_of(folder: Path, voters: range = range(VOTERS)) -> list[Request]:
    """The requests that our path makes, shard by shard and collaborator by collaborator."""
    from transformers import AutoTokenizer

    run = RunDirectory(str(folder / "run"))
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(folder / "model"))
    labeled = {
        row["example_id"]: row
        for row in run.read_table("data/labeled/shard-00000.parquet").to_pylist()
    }
    found = []
    for name in run.files("data/unlabeled", ".parquet"):
        rows = run.read_table(name).to_pylist()
        shown = run.read_table(layout.same_shard(name, "retrieve/unlabeled")).to_pylist()
        for shots in voters:
            for row, near in zip(rows, shown, strict=True):
                nearest = [labeled[i] for i in near["demonstration_ids"][:shots]]
                prompt = renderer.render(TASK.messages(row, nearest))
                seed = request_seed(SEED, row["example_id"], f"shots-{shots}")
                found.append(Request(prompt, seed))
    return found
