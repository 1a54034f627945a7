"""Banking77's 77 options scored behind each question: those that count, against all of them.

SmolLM2-135M-Instruct in bfloat16 through the transformers engine, 64 questions, as it is and, with
`--adapter`, as it was taught the labels (a warm-up of `accuracy/gain.py` leaves such a folder). The
peer is the same engine computing every beginning of every option once.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.accuracy.tasks import read
from benchmarks.common.data import data_folder
from benchmarks.common.report import arguments, interleaved, report, row
from semievol_ray.config import GenerationConfig, ModelConfig, TaskConfig
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.engines import Batch, EngineOptions, Request
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.stages.rendering import scored
from semievol_ray.tasks import PromptRenderer, Task

_ROWS, _BATCH, _REPEATS = 64, 32, 3


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--adapter", type=Path)

    args = arguments(__doc__, add)
    threads = len(os.sched_getaffinity(0))
    engine = TransformersEngine(
        ModelConfig(name=str(smollm2()), engine="transformers", dtype="bfloat16"),
        EngineOptions.of(GenerationConfig(batch_rows=_BATCH, cpus_per_replica=threads), 16),
    )
    batch = _batch(engine)
    rows, notes = [], []
    for name, adapter in (("as it is", None), ("taught the labels", args.adapter)):
        if name != "as it is" and adapter is None:
            continue
        ours = replace(batch, adapter=None if adapter is None else str(adapter))
        exact = replace(ours, negligible=0.0)
        seconds = interleaved(
            {"ours": partial(_answer, engine, ours), "exact": partial(_answer, engine, exact)},
            repeats=_REPEATS,
        )
        claim = f"77 options a question, SmolLM2 {name}"
        speeds = [_ROWS / seconds[side] for side in ("ours", "exact")]
        rows.append(row(claim, speeds[0], speeds[1], "every option exactly", unit="rows/s"))
        p, q = _answer(engine, ours), _answer(engine, exact)
        same, most = np.mean(p.argmax(axis=1) == q.argmax(axis=1)), np.abs(p - q).max()
        notes.append(
            f"{claim}: best option the same in {same:.1%}, p differs by {most:.4f} at most"
        )
    report(
        rows,
        repeats=_REPEATS,
        packages=("torch", "transformers", "peft"),
        json_path=args.json,
        notes=notes,
    )


def _batch(engine: TransformersEngine) -> Batch:
    published = read(data_folder("banking77") / "train.csv")
    labels = sorted({row["category"] for row in published})
    task = Task.from_config(
        TaskConfig(
            kind="label",
            labels=labels,
            instruction="What does the bank's customer want?",
            question_template="{{ question }}",
        ),
        labels,
    )
    blank = {"context": None, "options": None, "subject": None}
    examples = [
        blank | {"example_id": str(i), "question": row["text"]}
        for i, row in enumerate(published[:: len(published) // _ROWS][:_ROWS])
    ]
    renderer = PromptRenderer(engine.tokenizer, task.use_chat_template)
    requests = [
        Request(renderer.render(task.messages(e, ())), 0, chat=renderer.chat) for e in examples
    ]
    return scored(Batch(requests), renderer, task, examples)


def _answer(engine: TransformersEngine, batch: Batch) -> np.ndarray:
    """Probabilities of the options, [questions, options]."""
    scores = asyncio.run(engine.answer(batch)).scores
    assert scores is not None  # there are candidates
    logs = np.array(scores.to_pylist())
    return np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
