"""What the accuracy benchmarks compare, by `semievol compare`'s own machinery: arms and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.report import report
from benchmarks.common.study import accuracy_row, details
from semievol_ray.comparing.arms import ARMS, Arm
from semievol_ray.comparing.compare import compare
from semievol_ray.comparing.outcome import Outcome
from semievol_ray.comparing.study import Study
from semievol_ray.config_file import load_config
from semievol_ray.validation import merge

# What each arm is called in tables; others by the name of the arm.
NAMES = {"sft": "SFT", "all-labels": "all true labels"}
_NEVER = {"justify": {"when": "never"}}
# Voters of three kinds, weighed by a fifth of the labels, as `semievol init` proposes.
_STACKED: dict[str, Any] = {
    "collaborators": [{"model": m} for m in ("warm", "probe", "propagation")],
    "selection": {"policy": "stacked", "percentile": 75},
} | _NEVER
# No row is left out; and each is taught with its doubt: as the distribution of its voters.
_HARD = merge(_STACKED, {"selection": {"percentile": 100}})
_ALL = merge(_HARD, {"evolve": {"soft_targets": True}})
# What the same voters say once the model has learnt from them, and they from what was selected.
_ROUNDS = _STACKED | {
    "selection": {"policy": "stacked", "percentile": [75, 90]},
    "iteration": {"rounds": 2, "mode": "relabel", "refit": True},
}
# Its evolution goes on from the warm model at a hundredth of the rate, as the authors' does.
_UPSTREAM = merge(
    dict(ARMS["upstream"].changes or {}), {"evolve": {"training": {"learning_rate": 1e-5}}}
)
MORE = {
    "upstream": Arm("what the authors' code does", _UPSTREAM, whole=("collaborators",)),
    "stacked": Arm("voters of three kinds, weighed", _STACKED, whole=("collaborators",)),
    "stacked-hard": Arm("the same, and no row left out", _HARD, whole=("collaborators",)),
    "stacked-all": Arm("so, taught as distributions", _ALL, whole=("collaborators",)),
    "rounds": Arm("the same in two rounds", _ROUNDS, whole=("collaborators",)),
}
# Where options differ from example to example no classifier votes, but three warm-ups do.
_WARM_UPS = {"collaborators": [{"model": m} for m in ("warm", "warm-2", "warm-3")], "models": {}}
OPTIONS_DIFFER = MORE | {
    name: replace(MORE[name], changes=dict(MORE[name].changes or {}) | _WARM_UPS)
    for name in ("stacked", "stacked-hard", "stacked-all", "rounds")
}


def run_arms(
    values: Mapping[str, Any],
    folder: Path,
    seed: int,
    arms: Sequence[str],
    keep: Callable[[str, list[str], list[bool]], None],
    more: Mapping[str, Arm] = MORE,
) -> None:
    """Compare the arms of a config under one seed, or go on with it.

    `keep` is given each arm as it ends: its name in tables, the ids of the test rows, and which of
    them it had right.
    """
    config = load_config(dict(values) | {"seed": seed, "run_dir": str(folder / "run")})
    kept: set[str] = set()

    def done(outcome: Outcome) -> None:
        right = outcome.study.correct
        for arm in right.keys() - kept:
            kept.add(arm)
            keep(NAMES.get(arm, arm), outcome.ids or [], right[arm][seed])

    compare(config, arms, (seed,), more=more, folder=str(folder), done=done)


def run_seed(
    values: Mapping[str, Any], folder: Path, seed: int, study: Study, arms: Sequence[str]
) -> None:
    """Compare the base, SFT, the arms and all true labels under a seed."""
    everything = (*arms, "vanilla", "sft", "all-labels")
    run_arms(values, folder, seed, everything, lambda arm, _, right: study.add(arm, seed, right))


def summarize(
    study: Study, title: str, arms: Sequence[str], seeds: int, json_path: Path | None
) -> None:
    """Print what the seeds so far say, and write it: a long benchmark may be cut short."""
    print(study.table())
    most = NAMES["all-labels"]
    comparisons = [study.compare("SFT", arm) for arm in (*arms, most)]
    comparisons.append(study.compare("paper", "balanced"))
    for comparison in comparisons:
        print(comparison.line(), flush=True)
    report(
        [
            accuracy_row(study, f"{title}: accuracy, {arm}", arm, "SFT", goal=None)
            for arm in ("vanilla", *arms, most)
        ],
        repeats=seeds,
        packages=("torch", "transformers", "deepspeed", "ray"),
        json_path=json_path,
        details=details(study, comparisons),
    )
