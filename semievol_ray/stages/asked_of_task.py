"""What a config asks that not every task has: refused before a corpus is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa

from semievol_ray.config import SERVED_BY_VLLM, Config, TrainingConfig
from semievol_ray.engines import resolve_engine
from semievol_ray.engines.classifier_engine import check_learnable
from semievol_ray.errors import UserError
from semievol_ray.selection import extract_answers
from semievol_ray.selection.policies import POLICIES
from semievol_ray.stages.facts import check_policy, check_promise
from semievol_ray.stages.run_view import held_out_ids, labels_without
from semievol_ray.tasks import Task

_SHOWN = 5
# Of a training: what is decided by examples that are held out.
_BY_HELD_OUT = ("early_stopping_patience", "evaluate_every_steps")
# Options of peft's that vLLM refuses to load.
_NOT_SERVED = ("use_dora", "modules_to_save")
_STAGES: tuple[Literal["warmup", "evolve"], ...] = ("warmup", "evolve")


def check_asked(config: Config, task: Task) -> None:
    """Raise UserError where a policy, a collaborator or a reference cannot be had of the task."""
    check_policy(config.selection, task, config.generation.score_options)
    continues = config.continues is not None
    check_promise(config.selection, config.iteration.rounds, continues=continues)
    if config.iteration.guard and continues:
        raise UserError(
            "iteration.guard: the model that this run continues from has learnt the labels that "
            "would judge it; leave guard or continues out"
        )
    if config.evolve.soft_targets and not POLICIES[config.selection.policy].reads_options:
        knowing = ", ".join(name for name, policy in POLICIES.items() if policy.reads_options)
        raise UserError(
            f"evolve.soft_targets: the policy {config.selection.policy} has no distribution to "
            f"teach; policies that have one: {knowing}"
        )
    for stage in _STAGES:
        training = config.training_for(stage)
        _check_served(config, training)
        asked = [name for name in _BY_HELD_OUT if getattr(training, name) is not None]
        if asked and not training.held_out:
            raise UserError(
                f"{stage}: training.{asked[0]} needs training.held_out: without it nothing is "
                "measured"
            )
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


def _check_served(config: Config, training: TrainingConfig) -> None:
    """Raise UserError for an adapter that the engine could not answer with, once it is trained."""
    lora = training.lora
    if training.method == "lora" and lora.changed_base is not None:
        raise UserError(lora.changed_base)
    if training.method != "lora" or resolve_engine(config.model).engine != "vllm":
        return
    asked = f"training.lora.variant: {lora.variant}"
    if lora.variant in SERVED_BY_VLLM:
        options = [name for name in _NOT_SERVED if lora.options.get(name)]
        if not options:
            return
        asked = f"training.lora.options: {options[0]}"
    raise UserError(
        f"{asked} is served by the engine transformers alone, and model.engine is vllm (what auto "
        "stands for where that is installed): write model.engine: transformers"
    )


def check_labels(config: Config, task: Task, labeled: pa.Table) -> None:
    """Raise UserError for labels that cannot be told apart, or that a classifier cannot learn.

    It would be found out when the first model is trained already, or at the very end.
    """
    if task.kind == "label":
        check_spellings(task)
    if config.evaluation.references:
        check_learnable(_classes(task, labeled), "evaluation.references: a linear classifier")
    if not any(map(config.classifier_of, config.collaborators)):
        return
    if config.selection.calibrates:
        labeled = labels_without(labeled, held_out_ids(labeled, config.calibration.share))
    check_learnable(_classes(task, labeled), "a collaborator that is a classifier")


def check_spellings(task: Task) -> None:
    """Raise UserError where two labels are one to whoever reads a model's answers."""
    try:
        task.parse(pa.array([""]))
    except ValueError as error:
        advice = "name it in words, or leave its rows out"
        if "same" in str(error):
            advice = (
                "write each in one way, or name the labels in task.labels: what differs from one "
                "of them in case alone is read as that one"
            )
        raise UserError(f"{error}; {advice}") from None


def labels_without_rows(labels: Sequence[str], counts: Mapping[str, int]) -> str:
    """What is to be said of labels of the config that no labelled row has, in one line."""
    missing = [name for name in labels if name not in counts]
    if not missing:
        return ""
    shown = ", ".join(map(repr, missing[:_SHOWN]))
    return f"task.labels: no labelled row has {shown}"


def check_test_answers(labels: Mapping[str, int], answers: Mapping[str, int]) -> str:
    """What is to be said of test answers that are no label, in one line.

    `labels` and `answers`: how often each is among the labelled and the test rows. Raises UserError
    where none is a label, or one is a label in another spelling: no model could be right.
    """
    strange = {name: count for name, count in answers.items() if name not in labels}
    if not strange:
        return ""
    for name in strange:
        twin = next((label for label in labels if _are_one(label, name)), None)
        if twin is not None:
            raise UserError(
                f"data.test: the answer {name!r} is the label {twin!r} in another spelling; write "
                "it in one way, or name the labels in task.labels"
            )
    shown = ", ".join(f"{name!r} ({count})" for name, count in list(strange.items())[:_SHOWN])
    rows = sum(strange.values())
    if rows == sum(answers.values()):
        raise UserError(f"data.test: no answer is one of the {len(labels)} labels: {shown}")
    return f"{rows} test answers are none of the labels, and count as wrong: {shown}"


def _are_one(label: str, name: str) -> bool:
    """Whether a name is read as the label wherever a model writes it."""
    try:
        extract_answers(pa.array([""]), kind="label", labels=[label, name])
    except ValueError as error:
        return "same" in str(error)
    return False


def _classes(task: Task, labeled: pa.Table) -> list[str]:
    return [task.class_of(example) for example in labeled.to_pylist()]
