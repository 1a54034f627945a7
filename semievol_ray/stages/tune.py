"""Tune: learning rate and epochs, where the config leaves them to the labels (`auto`).

A try is a fine-tuning of the base on all labels but a fold, judged by the answers of that fold
which greedy decoding writes token for token. First each rate for a few epochs; then the best one
for twice as many, and again, while that helps. Where labels are few, several folds judge.

Labels that later judge voters or rounds (`holdout`) have no part in it: what is promised by them
holds for models that they did not choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config, TrainingConfig, TuningConfig
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.stages import holdout
from semievol_ray.stages.context import Context
from semievol_ray.stages.earlier import Earlier, settings_of
from semievol_ray.stages.finetune import TRAINING_WRITES, finetune, shots_settings, write_labeled
from semievol_ray.stages.run_view import ModelRef, label_folds, labels_without, looked_up
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import layout
from semievol_ray.touches import of_result

NAME = layout.TUNE
# Rates that are tried where none are given; an adapter takes larger ones than all the weights do.
RATES = {"lora": (1e-4, 3e-4, 1e-3), "full": (1e-5, 3e-5, 1e-4)}
# Labels that make a judgement: as many folds as hold so many, up to the most.
_ENOUGH, _MOST_FOLDS = 100, 3
# Characters of an answer.
_SHOWN = 60


@dataclass(frozen=True)
class Try:
    """A setting and what the folds said of it: exact matches (a share), and nats of a token."""

    learning_rate: float
    epochs: float
    exact_match: float
    # Null: the training came to no numbers.
    loss: float | None

    @property
    def score(self) -> tuple[float, float]:
        """Larger is better; among as many right answers the likelier ones."""
        return self.exact_match, -math.inf if self.loss is None else -self.loss


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
    tuned = None if config.continues is None else Earlier.of(config).tuned
    if tuned is not None:
        return Outcome({}, tuned.statistics)
    training, tuning = config.training_for("warmup"), config.tuning
    labeled = labels_without(context.labeled, _judges(context))
    count = folds_of(len(labeled), tuning)
    folds = [fold for fold in label_folds(labeled, tuning.share, count) if fold]
    if not folds:
        raise UserError(
            f"tuning.share: {tuning.share} of {len(labeled)} labels holds none out to "
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
    judge = _Judge.of(context, folder, folds)
    best, tries = search(judge, rates, epochs)
    judged = sum(map(len, folds))
    context.progress.say(
        NAME,
        f"learning rate {best.learning_rate:g}, {best.epochs:g} epochs: "
        f"{100 * best.exact_match:.1f} % of {judged} held-out labels right",
    )
    if not any(found.exact_match for found in tries):
        context.progress.say(
            NAME,
            "no setting has a single held-out label right, and the likeliest is taken: the task is "
            "not learnt, or answers are too long to be written token for token; look at the rows, "
            "and at what the answers are",
        )
    elif told := _no_better_than_one_answer(best, labeled, folds):
        context.progress.say(NAME, told)
    statistics = {
        "chosen": {"learning_rate": best.learning_rate, "epochs": best.epochs},
        "tries": [asdict(found) for found in tries],
        "judged": judged,
    }
    shards = [name for fold in judge.folds for name in (*fold.learnt, *fold.judged)]
    return Outcome({name: context.run.row_count(name) or 0 for name in shards}, statistics)


def _no_better_than_one_answer(
    best: Try, labeled: pa.Table, folds: Sequence[frozenset[str]]
) -> str | None:
    """What is to be said where the folds' most frequent answer alone would do as well, or None.

    As well: that so many are right is no more than chance (exact binomial, one-sided, 5 %).
    """
    from scipy.stats import binomtest

    judged = pa.array(sorted(frozenset().union(*folds)), pa.string())
    counts = pc.value_counts(looked_up(labeled, "answer", judged)).to_pylist()
    most = max(counts, key=lambda found: found["counts"])
    share, right = most["counts"] / len(judged), round(best.exact_match * len(judged))
    if share == 1 or binomtest(right, len(judged), share, "greater").pvalue < 0.05:
        return None
    return (
        f"the answer {_shortened(most['values'])!r} to every question would have "
        f"{100 * share:.1f} % of them right, and so few labels do not show that this is more: "
        "before generation is paid for, see whether the task is learnt (more labels, another model)"
    )


def _shortened(answer: str) -> str:
    return answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}…"


@dataclass(frozen=True)
class _Fold:
    """Training shards of the labels that a try learns, and of the so many that judge it."""

    learnt: list[str]
    judged: list[str]
    size: int


@dataclass(frozen=True)
class _Judge:
    """Measures a setting on every fold."""

    context: Context
    folder: str
    folds: list[_Fold]

    @classmethod
    def of(cls, context: Context, folder: str, held: Sequence[frozenset[str]]) -> _Judge:
        """One whose folds are written."""
        ids = frozenset(context.labeled["example_id"].to_pylist())
        shots, judges = context.config.warmup.shots, _judges(context)
        folds = []
        for number, fold in enumerate(held):
            place = f"{folder}/fold-{number}"
            learnt = write_labeled(context, place, without=fold | judges, shots=shots)
            judged = write_labeled(context, f"{place}/judged", without=ids - fold)
            folds.append(_Fold(learnt, judged, len(fold)))
        return cls(context, folder, folds)

    def __call__(self, rate: float, epochs: float) -> Try:
        """What the folds say of a setting; of one that comes to no numbers, that none is worse."""
        from semievol_ray.training import Diverged

        found, size = [], sum(fold.size for fold in self.folds)
        try:
            for number, fold in enumerate(self.folds):
                found.append(
                    [x * fold.size / size for x in self._train(rate, epochs, number, fold)]
                )
        except Diverged:
            tried = Try(rate, epochs, 0.0, None)
        else:
            tried = Try(rate, epochs, *map(sum, zip(*found, strict=True)))
        said = "no numbers" if tried.loss is None else f"{100 * tried.exact_match:.1f} % right"
        self.context.progress.say(NAME, f"{rate:g}, {epochs:g} epochs: {said}")
        return tried

    def _train(self, rate: float, epochs: float, number: int, fold: _Fold) -> tuple[float, float]:
        context, name = self.context, f"{rate:g}-{epochs:g}-{number}"
        training = context.config.training_for("warmup")
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
        place = f"{self.folder}/try-{name}"
        outcome = finetune(
            context,
            "warmup",
            place,
            fold.learnt,
            start=ModelRef(context.base),
            seed=context.config.seed,
            shown_as=f"{NAME}: {rate:g} x {epochs:g}",
            training=training.model_copy(update=changes),
            validation=fold.judged,
            identity=f"{context.identity(self.folder)}-{name}",
        )
        context.run.delete_owned(f"{place}/model", (), ("*",))
        matched, loss = (outcome.statistics[f"held_out_{x}"] for x in ("exact_match", "loss"))
        if matched is None or loss is None:
            raise SemiEvolError(f"{place}: the held-out labels were not judged")
        return matched, loss


def _judges(context: Context) -> frozenset[str]:
    """Ids of the labels that judge what comes later."""
    return frozenset(context.held_out) if holdout.STAGE.wanted(context.config) else frozenset()


def _settings(config: Config, _: int) -> dict[str, Any]:
    trained = trained_settings(config, config.training_for("warmup")) | shots_settings(config)
    if holdout.STAGE.wanted(config):
        trained["calibration"] = of_result(config.calibration)
    return trained | {"tuning": of_result(config.tuning)} | settings_of(config)


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
