"""Tune: learning rate and epochs, where the config leaves them to the labels (`auto`).

A try is a fine-tuning of the base on all labels but a fold, judged by the answers of that fold
which greedy decoding writes token for token. First each rate for a few epochs; then the best one
for twice as many, and again, while that helps. Where labels are few, several folds judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from semievol_ray.config import Config, TrainingConfig, TuningConfig
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import TRAINING_WRITES, finetune, shots_settings, write_labeled
from semievol_ray.stages.run_view import ModelRef, label_folds
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import layout
from semievol_ray.touches import of_result

NAME = layout.TUNE
# Rates that are tried where none are given; an adapter takes larger ones than all the weights do.
RATES = {"lora": (1e-4, 3e-4, 1e-3), "full": (1e-5, 3e-5, 1e-4)}
# Labels that make a judgement: as many folds as hold so many, up to the most.
_ENOUGH, _MOST_FOLDS = 100, 3


@dataclass(frozen=True)
class Try:
    """A setting and what the folds said of it: exact matches (a share), and nats of a token."""

    learning_rate: float
    epochs: float
    exact_match: float
    loss: float

    @property
    def score(self) -> tuple[float, float]:
        """Larger is better; among as many right answers the likelier ones."""
        return self.exact_match, -self.loss


def search(
    measure: Callable[[float, float], Try],
    rates: Sequence[float],
    epochs: Sequence[float],
) -> tuple[Try, list[Try]]:
    """The best of the tries, and all of them in order.

    Every rate is tried with the first number of `epochs`, the best then with the following ones,
    up to the first that does not help.
    """
    tries = [measure(rate, epochs[0]) for rate in rates]
    best = max(tries, key=lambda found: found.score)
    for more in epochs[1:]:
        tries.append(measure(best.learning_rate, more))
        if tries[-1].score <= best.score:
            break
        best = tries[-1]
    return best, tries


def rates_of(training: TrainingConfig, tuning: TuningConfig) -> tuple[float, ...]:
    """The learning rates that are tried."""
    if training.learning_rate != "auto":
        return (training.learning_rate,)
    return tuning.learning_rates or RATES[training.method]


def epochs_of(training: TrainingConfig, tuning: TuningConfig) -> list[float]:
    """The numbers of epochs that are tried, the fewest first."""
    if training.epochs != "auto":
        return [training.epochs]
    doublings = math.floor(math.log2(tuning.most_epochs / tuning.first_epochs))
    return [tuning.first_epochs * 2**n for n in range(doublings + 1)]


def folds_of(labels: int, tuning: TuningConfig) -> int:
    """How many folds judge a try."""
    if tuning.folds != "auto":
        return tuning.folds
    return min(_MOST_FOLDS, max(1, math.ceil(_ENOUGH / (tuning.share * labels))))


def run(context: Context, _: int) -> Outcome:
    """Leave the chosen setting in the manifest's statistics, and no model."""
    folder, config = context.folder(NAME), context.config
    training, tuning = config.training_for("warmup"), config.tuning
    count = folds_of(len(context.labeled), tuning)
    folds = [fold for fold in label_folds(context.labeled, tuning.share, count) if fold]
    if not folds:
        raise UserError(
            f"tuning.share: {tuning.share} of {len(context.labeled)} labels holds none out to "
            "judge by; raise it, or give training.learning_rate and training.epochs"
        )
    rates, epochs = rates_of(training, tuning), epochs_of(training, tuning)
    most = len(folds) * (len(rates) + len(epochs) - 1)
    passes = len(folds) * (1 - tuning.share) * (len(rates) * epochs[0] + sum(epochs[1:]))
    context.progress.say(
        NAME,
        f"at most {most} fine-tunings, of {passes:.0f} epochs of the labels together "
        f"({len(folds)} folds of {tuning.share:g} judge; section tuning)",
    )
    ids = frozenset(context.labeled["example_id"].to_pylist())
    outputs: dict[str, int] = {}
    shards: list[tuple[list[str], list[str]]] = []
    for number, fold in enumerate(folds):
        place = f"{folder}/fold-{number}"
        learnt = write_labeled(context, place, without=fold, shots=config.warmup.shots)
        judged = write_labeled(context, f"{place}/judged", without=ids - fold)
        shards.append((learnt, judged))
        outputs |= {name: context.run.row_count(name) or 0 for name in (*learnt, *judged)}
    sizes = [len(fold) for fold in folds]
    best, tries = search(partial(_measure, context, folder, training, shards, sizes), rates, epochs)
    context.progress.say(
        NAME,
        f"learning rate {best.learning_rate:g}, {best.epochs:g} epochs: "
        f"{100 * best.exact_match:.1f} % of {sum(sizes)} held-out labels right",
    )
    chosen = {"learning_rate": best.learning_rate, "epochs": best.epochs}
    statistics = {
        "chosen": chosen,
        "tries": [asdict(found) for found in tries],
        "judged": sum(sizes),
        # More rows need no more steps than these for what the labels teach.
        "labels": len(context.labeled),
    }
    return Outcome(outputs, statistics)


def _measure(
    context: Context,
    folder: str,
    training: TrainingConfig,
    shards: Sequence[tuple[list[str], list[str]]],
    sizes: Sequence[int],
    rate: float,
    epochs: float,
) -> Try:
    """One setting on every fold."""
    from semievol_ray.training import Diverged

    changes = {
        "learning_rate": rate,
        "epochs": epochs,
        "min_learning_rate": min(training.min_learning_rate, rate),
        "held_out": 0.0,
        # What a try is worth is asked once, in its end.
        "evaluate_every_steps": 10**9,
        "early_stopping_patience": None,
        "best_by": "loss",
    }
    setting = training.model_copy(update=changes)
    right = lost = 0.0
    for number, (learnt, judged) in enumerate(shards):
        place = f"{folder}/try-{rate:g}-{epochs:g}-{number}"
        try:
            outcome = finetune(
                context,
                "warmup",
                place,
                learnt,
                start=ModelRef(context.base),
                seed=context.config.seed,
                shown_as=f"{NAME}: {rate:g} x {epochs:g}",
                training=setting,
                validation=judged,
                identity=f"{context.identity(folder)}-{rate:g}-{epochs:g}-{number}",
            )
        except Diverged:
            return Try(rate, epochs, 0.0, math.inf)
        context.run.delete_owned(f"{place}/model", (), ("*",))
        matched, loss = (outcome.statistics[f"held_out_{x}"] for x in ("exact_match", "loss"))
        if matched is None or loss is None:
            raise SemiEvolError(f"{place}: the held-out labels were not judged")
        right += matched * sizes[number]
        lost += loss * sizes[number]
    return Try(rate, epochs, right / sum(sizes), lost / sum(sizes))


def _settings(config: Config, _: int) -> dict[str, Any]:
    trained = trained_settings(config, config.training_for("warmup")) | shots_settings(config)
    return trained | {"tuning": of_result(config.tuning)}


STAGE = Stage(
    NAME,
    run,
    _settings,
    lambda config, number: ["ingest"],
    writes=(
        "fold-*/examples/*", "fold-*/judged/examples/*",
        *(f"try-*/{name}" for name in TRAINING_WRITES),
    ),
    in_round=False,
    works_with="training",
    wanted=lambda config: config.tunes,
)  # fmt: skip
