"""What warm-up and evolution share: examples to training rows, and one fine-tuning of the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer
from semievol_ray.schema import TRAINING
from semievol_ray.stages.context import Context, ModelRef, Outcome
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import PromptRenderer, Task, completion_text

# A soft target's candidates below this probability cost a forward pass and teach nothing.
_SMALLEST_PROBABILITY = 0.01


@dataclass(frozen=True)
class Target:
    """What one example is to be answered with: candidates and their probabilities."""

    candidates: Sequence[str]
    weights: Sequence[float]

    @classmethod
    def hard(cls, answer: str) -> Target:
        """One answer, surely."""
        return cls([answer], [1.0])

    @classmethod
    def soft(cls, candidates: Sequence[str], distribution: Sequence[float]) -> Target:
        """A distribution over answers, without its negligible part."""
        kept = [
            (c, p)
            for c, p in zip(candidates, distribution, strict=False)
            if p >= _SMALLEST_PROBABILITY
        ]
        total = sum(p for _, p in kept)
        return cls([c for c, _ in kept], [p / total for _, p in kept])


def training_table(
    task: Task,
    renderer: PromptRenderer,
    rows: Iterable[tuple[Mapping[str, Any], Target]],
) -> pa.Table:
    """(example, target) pairs as a table in the TRAINING schema; the loss sees only targets."""
    records = [
        {
            "example_id": example["example_id"],
            "prompt": renderer.render(task.messages(example)),
            "candidates": [completion_text(c, chat=renderer.chat) for c in target.candidates],
            "candidate_weights": target.weights,
            "weight": 1.0,
        }
        for example, target in rows
    ]
    return pa.Table.from_pylist(records, schema=TRAINING)


def write_labeled(context: Context, folder: str) -> list[str]:
    """The labelled set as training shards under a folder of the run; returns their names."""
    renderer = make_renderer(context)
    names = []
    for shard in context.shards("labeled"):
        rows = context.run.read_table(shard).to_pylist()
        table = training_table(
            context.task, renderer, ((row, Target.hard(row["answer"])) for row in rows)
        )
        name = shard.replace("data/labeled/", f"{folder}/examples/labeled-")
        context.run.write_table(name, table)
        names.append(name)
    return names


def make_renderer(context: Context) -> PromptRenderer:
    """The renderer of the base model's own tokenizer."""
    if context.base.engine in ("openai", "simulated"):
        raise UserError(
            f"model.engine: a model behind the {context.base.engine} engine cannot be fine-tuned; "
            "name it under `models` and let it collaborate, beside a local base model"
        )
    return PromptRenderer(load_tokenizer(context.base), context.config.task.use_chat_template)


def finetune(
    context: Context,
    stage: Literal["warmup", "evolve"],
    folder: str,
    examples: Sequence[str],
    *,
    start: ModelRef,
    seed: int,
) -> Outcome:
    """Fine-tune a model, or go on with its adapter, on training shards; leaves `<folder>/model`."""
    from semievol_ray.training import Progress, TrainingJob, train

    run, config = context.run, context.config.training_for(stage)
    scratch = run.scratch_folder(f"{folder}/scratch")
    target = f"{folder}/model"
    output = Path(run.full_path(target)) if run.is_local else scratch / "model"
    job = TrainingJob(
        base_model=start.base.name,
        revision=start.base.revision,
        dtype=context.base.dtype,
        trust_remote_code=context.base.trust_remote_code,
        examples=tuple(_local_file(run, name) for name in examples),
        output_dir=output,
        scratch_dir=scratch / "work",
        config=config,
        adapter_from=None if start.adapter is None else Path(start.adapter),
        seed=seed,
    )
    last = 0

    def report(progress: Progress) -> None:
        nonlocal last
        if last == 0:
            context.progress.start(stage, progress.total_steps, "steps")
        note = f"loss {progress.loss:.3f}"
        context.progress.advance(stage, progress.step - last, note=note)
        last = progress.step

    result = train(job, on_progress=report)
    if not run.is_local:
        with run.new_folder(target) as new:
            shutil.copytree(output, new, dirs_exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return Outcome(
        {target: result.examples},
        {
            "kind": result.kind,
            "steps": result.steps,
            "examples": result.examples,
            "tokens": result.tokens,
            "train_loss": result.train_loss,
            "held_out_loss": result.held_out_loss,
            "truncated_rows": result.truncated_rows,
            "dropped_rows": result.dropped_rows,
        },
    )


def _local_file(run: RunDirectory, name: str) -> Path:
    folder, _, file = name.rpartition("/")
    return run.local_folder(folder) / file
