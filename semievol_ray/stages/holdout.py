"""Holdout: a warm model that has not seen some of the labels, so that these can judge.

M_warm knows every label, and what it says of them is no sign of what it is worth. This one is
fine-tuned as M_warm is, on all labels but a share of each class, and answers for it in `calibrate`
and before the `guard`.
"""

from __future__ import annotations

from typing import Any

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import (
    WARMUP_WRITES,
    finetune_warm,
    shots_settings,
    warmups_settings,
    write_labeled,
)
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.touches import of_result

NAME = "holdout"


def run(context: Context, _: int) -> Outcome:
    """Leave FT(M_base, labels but for those held out) in the stage's `model`."""
    folder, held = context.folder(NAME), len(context.held_out)
    if not held:
        raise UserError(
            f"calibration.share ({context.config.calibration.share}) of {len(context.labeled)} "
            "labels holds none out to judge by; raise it, or choose a policy that needs "
            "none, and iteration.guard: false"
        )
    shots = context.config.warmup.shots
    shards = write_labeled(context, folder, without=context.held_out, shots=shots)
    outcome = finetune_warm(context, folder, shards, shown_as=NAME)
    statistics = outcome.statistics | {"held_out_labels": held}
    return Outcome(outcome.outputs, statistics, outcome.files)


def settings(config: Config, _: int) -> dict[str, Any]:
    """As the warm-up's, and how many labels are held out."""
    trained = trained_settings(config, config.training_for("warmup")) | shots_settings(config)
    return trained | warmups_settings(config) | {"calibration": of_result(config.calibration)}


STAGE = Stage(
    NAME,
    run,
    settings,
    # It reads nothing of the warm-up's, but is what that one would be: done anew together.
    lambda config, number: ["ingest", "warmup"],
    writes=WARMUP_WRITES,
    in_round=False,
    works_with="training",
    wanted=lambda config: config.selection.calibrates or config.iteration.guard,
)
