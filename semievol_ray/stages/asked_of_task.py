"""What a config asks that not every kind of task has: refused before anything is read."""

from __future__ import annotations

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.stages.facts import check_policy
from semievol_ray.tasks import Task


def check_asked(config: Config, task: Task) -> None:
    """Raise UserError where a policy, a collaborator or a reference cannot be had of the task."""
    check_policy(config.selection, task, config.generation.score_options)
    if not task.is_closed and any(c.guided for c in config.collaborators):
        raise UserError(f"collaborators: guided needs a closed-answer task, not {task.kind}")
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
