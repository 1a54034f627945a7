"""One seeded comparison of policies on one task: every arm is a whole run of the pipeline.

The arms whose settings before selection agree share their responses, as `semievol select` would
let a user do. What they are measured against: the base, the labels alone, all true labels.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.common.report import report
from benchmarks.common.study import accuracy_row, details
from semievol_ray import pipeline
from semievol_ray.comparing.baselines import with_all_labels
from semievol_ray.comparing.study import Study
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.demo.model import make_llama, make_tokenizer, pretrain
from semievol_ray.results import Run
from semievol_ray.stages import evaluate
from semievol_ray.stages.context import Context
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.validation import merge

ALL_LABELS = "all true labels"
# A tiny Llama learns little through an adapter or at the paper's rate: all its weights are
# trained, faster and for longer. What the policies differ in stays as the presets say.
TINY_TRAINING: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-3,
    "epochs": 4,
    "global_batch_size": 16,
    "micro_batch_size": 16,
    "precision": "fp32",
}
ARMS: dict[str, dict[str, Any]] = {
    "paper": {"preset": "paper"},
    "balanced": {"selection": {"policy": "balanced"}},
    # Its evolution goes on from the warm model at a hundredth of the rate, as in the preset.
    "upstream": {"preset": "upstream", "evolve": {"training": {"learning_rate": 1e-5}}},
    # Voters of three kinds, weighed by a fifth of the labels.
    "stacked": {
        "models": {
            "words": {"name": "words", "engine": "probe", "engine_options": {"embedder": "tfidf"}}
        },
        "collaborators": [
            {"model": "warm"},
            {"model": "probe"},
            {"model": "words"},
            {"model": "neighbours"},
        ],
        "justify": {"when": "never"},
        "selection": {"policy": "stacked", "percentile": 75},
    },
}
# Three rounds of the same voters, who learn from the round before; labels guard what counts.
ARMS["rounds"] = ARMS["stacked"] | {
    "selection": {"policy": "stacked", "percentile": [40, 70, 90]},
    "iteration": {"rounds": 3, "mode": "relabel", "refit": True, "guard": True},
}
# What an arm has in common with another's run, up to the stage that it begins with.
_SHARES_UNTIL = {
    "balanced": ("paper", "round-1/select"),
    "stacked": ("paper", "retrieve"),
    "rounds": ("stacked", "round-1/select"),
}


def run_seed(
    values: Mapping[str, Any],
    folder: Path,
    seed: int,
    study: Study,
    arms: Sequence[str] = tuple(ARMS),
) -> None:
    """Run every arm of a config, the paper's first."""
    for name, right in run_arms(values, folder, seed, arms):
        study.add(name, seed, right)


def run_arms(
    values: Mapping[str, Any],
    folder: Path,
    seed: int,
    arms: Sequence[str] = tuple(ARMS),
    done: Collection[str] = (),
) -> Iterator[tuple[str, list[bool]]]:
    """Which test rows each arm had right, as they end; those that are `done` are left out.

    The paper's run comes first: what is left of it after the warm-up, vanilla and SFT, is measured
    at once, and the others share the rest. A run that was cut short goes on in its folder.
    """
    values = dict(values) | {"seed": seed}
    if "SFT" not in done:
        yield from _baselines(_config(values, ARMS["paper"], folder / "paper"))
    for arm in arms:
        if arm in done:
            continue
        run_dir = folder / arm
        redo = None
        other, until = _SHARES_UNTIL.get(arm, (arm, None))
        if (folder / other).exists() and not run_dir.exists():
            shutil.copytree(folder / other, run_dir)
            redo = until
        config = _config(values, ARMS[arm], run_dir)
        pipeline.run(config, redo=redo)
        run = Run(config.run_dir)
        print(f"seed {seed}, {arm}: {_pseudo_answers(run)}", flush=True)
        yield arm, _right(run.predictions("SemiEvol"))
    if ALL_LABELS not in done:
        yield ALL_LABELS, _right(with_all_labels(_config(values, {}, folder / "paper")))


def summarize(
    study: Study, title: str, arms: Sequence[str], seeds: int, json_path: Path | None
) -> None:
    """Print what the seeds so far say, and write it: a long benchmark may be cut short."""
    print(study.table())
    comparisons = [study.compare("SFT", arm) for arm in (*arms, ALL_LABELS)]
    comparisons.append(study.compare("paper", "balanced"))
    for comparison in comparisons:
        print(comparison.line(), flush=True)
    report(
        [
            accuracy_row(study, f"{title}: accuracy, {arm}", arm, "SFT", goal=None)
            for arm in ("vanilla", *arms, ALL_LABELS)
        ],
        repeats=seeds,
        packages=("torch", "transformers", "deepspeed", "ray"),
        json_path=json_path,
        details=details(study, comparisons),
    )


def make_base(
    texts: Sequence[str],
    answers: Sequence[str],
    folder: Path,
    *,
    seed: int,
    epochs: int,
    answer_tokens: bool = False,
) -> None:
    """A tiny Llama that has read the unlabelled texts, and some of them with answers at random.

    The latter show two texts, each with any answer, and one of them again: they teach the use of
    demonstrations, and nothing of the task. With `answer_tokens` each answer is one token: names of
    many parts would make such a model slow, and better at none of them.
    """
    import torch

    rng = random.Random(seed)
    readings = [f"{text}\nAnswer:" for text in texts] * epochs
    readings += [_episode(rng, texts, answers) for _ in range(len(readings) // 8)]
    tokenizer = make_tokenizer([*texts, *(f"\nAnswer: {a}" for a in answers)], 2048)
    if answer_tokens:
        tokenizer.add_tokens([f" {answer}" for answer in answers])
    torch.manual_seed(seed)
    model = make_llama(len(tokenizer), hidden=128, layers=3, heads=4, context=512)
    pretrain(model, tokenizer, readings, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _episode(rng: random.Random, texts: Sequence[str], answers: Sequence[str]) -> str:
    shown = [(text, rng.choice(answers)) for text in rng.sample(texts, 2)]
    shown.append(rng.choice(shown))
    return "\n\n".join(f"{text}\nAnswer: {answer}" for text, answer in shown)


def _config(values: Mapping[str, Any], arm: Mapping[str, Any], run_dir: Path) -> Config:
    merged = dict(values) | {"run_dir": str(run_dir)}
    for key, value in arm.items():
        below = merged.get(key, {})
        merged[key] = merge(below, value) if isinstance(value, Mapping) else value
    return load_config(merged)


def _baselines(config: Config) -> Iterator[tuple[str, list[bool]]]:
    """The base as it is, and fine-tuned on the labels."""
    context = _context(pipeline.run(config, until="warmup"), config)
    folder = context.ledger.begin("baselines", {}, {}, ("*",)).folder
    try:
        for name, model in (("vanilla", ModelRef(context.base)), ("SFT", context.model("warm", 1))):
            predicted = evaluate.predict_test(context, name, model, f"{folder}/{name}")
            yield name, _right(pa.concat_tables(predicted.values()))
    finally:
        context.release_engines()


def _context(directory: RunDirectory, config: Config) -> Context:
    return Context(config, directory, StageLedger(directory))


def _right(predictions: pa.Table) -> list[bool]:
    found: list[bool] = predictions["correct"].to_pylist()
    return found


def _pseudo_answers(run: Run) -> str:
    assert run.metrics is not None
    found = run.metrics["pseudo_answers"][0]
    return (
        f"{100 * found['correct'] / found['rows']:.1f} % of {found['rows']} pseudo-answers right, "
        f"{100 * found['selected_correct'] / max(1, found['selected']):.1f} % of the "
        f"{found['selected']} selected"
    )
