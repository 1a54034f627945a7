"""What warm-up and evolution share: examples to training rows, and one fine-tuning of the run."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa

from semievol_ray.config import Config, TrainingConfig
from semievol_ray.engines import request_seed
from semievol_ray.machines import Machines
from semievol_ray.ray_session import shard_map
from semievol_ray.schema import TRAINING
from semievol_ray.stages.context import Context
from semievol_ray.stages.embedding import nearest_others
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.run_view import ModelRef, labels_without
from semievol_ray.stages.stage import Outcome, retrieval_settings
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import PromptRenderer, Task
from semievol_ray.training.group_size import check_fits, sized, words

# Of a soft target the candidates are kept that hold this much of the probability together: the rest
# costs forward passes and teaches next to nothing.
_MASS_KEPT = 0.99

# Rows that pay for a task of writing them, which starts by loading the tokenizer.
TASK_ROWS = 50_000

# What a training stage makes in its folder. The scratch goes when the model is there.
TRAINING_WRITES = (
    "examples/*", "model/*", ".model.*", "logs/*", "scratch/*", "worker-*", "result.json",
)  # fmt: skip
WARMUP_WRITES = (*TRAINING_WRITES, *(f"warm-*/{name}" for name in TRAINING_WRITES))


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
        """A distribution over answers: the fewest candidates that hold 99 % of it.

        Their weights are their probabilities as they are. Scaled up to 1, what is left of a flat
        distribution over many classes would say that the least certain row is sure.
        """
        pairs = sorted(zip(candidates, distribution, strict=True), key=lambda pair: -pair[1])
        before = itertools.accumulate((p for _, p in pairs), initial=0.0)
        kept = [pair for pair, held in zip(pairs, before, strict=False) if held < _MASS_KEPT]
        return cls([c for c, _ in kept], [p for _, p in kept])


def training_table(
    task: Task,
    renderer: PromptRenderer,
    rows: Iterable[tuple[Mapping[str, Any], Target]],
    shown: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> pa.Table:
    """(example, target) pairs as a table in the TRAINING schema; the loss sees only targets.

    `shown` are the demonstrations of some examples, by id and nearest first.
    """
    records = [
        {
            "example_id": example["example_id"],
            "prompt": renderer.render(task.messages(example, shown.get(example["example_id"], ()))),
            "candidates": [renderer.completion(c) for c in target.candidates],
            "candidate_weights": target.weights,
            "weight": 1.0 if example.get("weight") is None else example["weight"],
            "chat": renderer.chat,
        }
        for example, target in rows
    ]
    return pa.Table.from_pylist(records, schema=TRAINING)


def write_labeled(
    context: Context, folder: str, without: Collection[str] = frozenset(), shots: int = 0
) -> list[str]:
    """The labelled set as training shards under a folder of the run; returns their names.

    Examples whose ids are in `without` are left out, and shown to none of the others. With `shots`
    a prompt shows from 0 to so many of its nearest other labels.
    """
    sources = context.shards("labeled")
    write = _LabeledWriter(
        run=context.run,
        task=context.task,
        renderer=make_renderer(context),
        without=frozenset(without),
        shown=_drawn_demonstrations(context, without, shots) if shots else {},
        folder=f"{folder}/examples/labeled",
    )
    tasks = sum(sources.values()) // TASK_ROWS
    return list(shard_map(context.config.ray, tasks)(write, sources))


@dataclass(frozen=True)
class _LabeledWriter:
    """Writes the labels of a shard as training rows. Picklable."""

    run: RunDirectory
    task: Task
    renderer: PromptRenderer
    without: frozenset[str]
    shown: Mapping[str, Sequence[Mapping[str, Any]]]
    folder: str

    def __call__(self, source: str) -> str:
        rows = self.run.read_table(source).to_pylist()
        kept = (row for row in rows if row["example_id"] not in self.without)
        targets = ((row, Target.hard(row["answer"])) for row in kept)
        name = layout.same_shard(source, self.folder)
        table = training_table(self.task, self.renderer, targets, self.shown)
        self.run.write_table(name, table)
        return name


def shots_settings(config: Config) -> dict[str, Any]:
    """What `warmup.shots` adds to the settings of one that learns labels; nothing at 0."""
    if not config.warmup.shots:
        return {}
    return {"warmup": {"shots": config.warmup.shots}, "retrieval": retrieval_settings(config)}


def _drawn_demonstrations(
    context: Context, without: Collection[str], shots: int
) -> dict[str, list[dict[str, Any]]]:
    """For each label from 0 to `shots` of its nearest others, by id: how many is drawn."""
    labeled = labels_without(context.labeled, without)
    near = nearest_others(context, labeled, shots)
    by_id = {row["example_id"]: row for row in labeled.to_pylist()}
    drawn = {}
    for example_id, ids in zip(by_id, near, strict=True):
        count = request_seed(context.config.seed, example_id, "shots") % (shots + 1)
        drawn[example_id] = [by_id[i] for i in ids[:count]]
    return drawn


def finetune(
    context: Context,
    stage: Literal["warmup", "evolve"],
    folder: str,
    examples: Sequence[str],
    *,
    start: ModelRef,
    seed: int,
    shown_as: str | None = None,
    training: TrainingConfig | None = None,
    validation: Sequence[str] = (),
    identity: str | None = None,
) -> Outcome:
    """Fine-tune a model, or go on with its adapter, on training shards; leaves `<folder>/model`.

    `stage` says whose settings it has, where `training` does not give them, and `shown_as` how
    progress calls it, where that differs. Shards of `validation` are measured and not trained on.
    `identity` is what its checkpoints are known by, where the folder is not a stage's own.
    """
    from semievol_ray.training import Depot, Progress, TrainingJob, train

    run = context.run
    rows = {name: run.row_count(name) or 0 for name in examples}
    config = training or context.training_for(stage, sum(rows.values()))
    result = run.read_json(f"{folder}/result.json")
    if result is None:
        machines = Machines.there()
        config = sized(config, start.base, machines, gpus=context.has_gpus)
        check_fits(config, start.base, machines)
        context.progress.say(shown_as or stage, f"{words(config)} (training.workers)")
        job = TrainingJob(
            base_model=start.base.name,
            revision=start.base.revision,
            dtype=context.base.dtype,
            trust_remote_code=context.base.trust_remote_code,
            examples=tuple(Path(run.full_path(name)) for name in examples),
            validation=tuple(Path(run.full_path(name)) for name in validation),
            output_dir=Path(run.full_path(f"{folder}/model")),
            scratch_dir=Path(run.full_path(f"{folder}/scratch")),
            log_dir=Path(run.full_path(f"{folder}/logs")),
            config=config,
            adapter_from=None if start.adapter is None else Path(start.adapter),
            seed=seed,
            base_name=context.config.model.name,
            identity=identity or context.identity(folder),
            wait_seconds=context.config.ray.wait_seconds,
        )
        last, name = 0, shown_as or stage

        def report(progress: Progress) -> None:
            nonlocal last
            if last == 0:
                context.progress.start(name, progress.total_steps, "steps")
            note = f"loss {progress.loss:.3f}"
            if (share := progress.held_out_exact_match) is not None:
                note += f", {100 * share:.1f} % of those held out right"
            context.progress.advance(name, progress.step - last, note=note)
            last = progress.step

        def say(line: str) -> None:
            context.progress.say(name, line)

        done = train(job, depot=Depot(run, folder), on_progress=report, on_restart=say)
        result = {k: v for k, v in dataclasses.asdict(done).items() if k != "output_dir"}
        # With it the training is over, whatever happens before the stage is.
        run.write_json(f"{folder}/result.json", json.loads(json.dumps(result)))
    if lost := _lost(result, config.max_length):
        context.progress.finish(folder, lost)
    run.delete_owned(f"{folder}/scratch", (), ("*",))
    files = [name for kind in ("model", "logs") for name in run.all_files(f"{folder}/{kind}")]
    statistics = {key: result.get(key) for key in _STATISTICS}
    statistics |= {"learning_rate": config.learning_rate, "epochs": config.epochs}
    return Outcome(rows, statistics, (*sorted(files), f"{folder}/result.json"))


def finetune_warm(
    context: Context, folder: str, examples: Sequence[str], shown_as: str = "warmup"
) -> Outcome:
    """Fine-tune the base on labels, once for each warm-up that the collaborators ask for.

    The first is under the run's seed, the others under seeds of their own: another start of the
    adapter, another order of the labels.
    """
    seed, count = context.config.seed, context.config.warmups
    outputs: dict[str, int] = {}
    files: list[str] = []
    found: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        if count > 1:
            context.progress.say(shown_as, f"{number} of {count}")
        outcome = finetune(
            context,
            "warmup",
            layout.of_warmup(folder, number),
            examples,
            start=ModelRef(context.base),
            seed=seed if number == 1 else request_seed(seed, str(number), "warmup"),
            shown_as=shown_as,
            identity=f"{context.identity(folder)}-{number}" if number > 1 else None,
        )
        outputs |= outcome.outputs
        files += outcome.files
        found.append(outcome.statistics)
    others = {"others": found[1:]} if count > 1 else {}
    return Outcome(outputs, found[0] | others, tuple(files))


def warmups_settings(config: Config) -> dict[str, Any]:
    """What several warm-ups add to the settings of a stage that trains them; nothing for one."""
    return {"warmups": config.warmups} if config.warmups > 1 else {}


def _lost(result: Mapping[str, Any], max_length: int) -> str:
    """What of the examples was not trained on, in one line; nothing where all of it was."""
    said = {
        "answers left out, too long or of no weight": result["dropped_rows"],
        "prompts cut in their middle": result["truncated_rows"],
    }
    counts = ", ".join(f"{count:,} {what}" for what, count in said.items() if count)
    limit = f"training.max_length: {max_length}"
    # What an earlier version trained names none.
    if (own := result.get("max_length", max_length)) < max_length:
        limit += f"; the model has {own} positions"
    return counts and f"{counts} ({limit})"


_STATISTICS = (
    "kind", "steps", "examples", "tokens", "train_loss", "held_out_loss",
    "held_out_exact_match", "truncated_rows", "dropped_rows",
)  # fmt: skip
