"""What a config asks that not every task has: refused before a corpus is read."""

from __future__ import annotations

import pyarrow as pa

from semievol_ray.config import Config
from semievol_ray.engines.classifier_engine import check_learnable
from semievol_ray.errors import UserError
from semievol_ray.stages.facts import check_policy
from semievol_ray.stages.run_view import held_out_ids, labels_without
from semievol_ray.tasks import Task


def check_asked(config: Config, task: Task) -> None:
    """Raise UserError where a policy, a collaborator or a reference cannot be had of the task."""
    check_policy(config.selection, task, config.generation.score_options)
    if not task.is_closed and any(c.guided for c in config.collaborators):
        raise UserError(f"collaborators: guided needs a closed-answer task, not {task.kind}")
    if any(c.pmi for c in config.collaborators):
        if not task.is_closed:
            raise UserError(f"collaborators: pmi needs a closed-answer task, not {task.kind}")
        if not config.generation.score_options:
            raise UserError("collaborators: pmi needs generation.score_options: true")
    if classifier := next(filter(None, map(config.classifier_of, config.collaborators)), None):
        if not task.is_closed:
            raise UserError(
                f"collaborators: {classifier} needs a closed-answer task, not {task.kind}"
            )
        if not config.generation.score_options:
            raise UserError(f"collaborators: {classifier} needs generation.score_options: true")
    if config.evaluation.references and task.kind != "label":
        raise UserError(
            f"evaluation.references: a linear classifier needs a label task, not {task.kind}"
        )


def check_labels(config: Config, task: Task, labeled: pa.Table) -> None:
    """Raise UserError where a collaborator is a classifier that cannot learn these labels.

    It would be found out when the first model is trained already.
    """
    if not any(map(config.classifier_of, config.collaborators)):
        return
    if config.selection.calibrates:
        labeled = labels_without(labeled, held_out_ids(labeled, config.calibration.share))
    check_learnable([task.class_of(example) for example in labeled.to_pylist()])
