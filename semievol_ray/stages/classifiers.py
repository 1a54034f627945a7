"""Classifiers: those among the collaborators, fitted to the labels and to what was selected.

Where one of them is as good as the language model, whoever needs no more than an answer's name has
it at a fraction of the cost: `semievol_ray.load_classifier(folder)`. Loading runs no code of the
folder's. `evaluate` compares them with the models.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from semievol_ray.config import Config, ModelConfig
from semievol_ray.engines.classifier_engine import fit
from semievol_ray.ray_session import shard_map
from semievol_ray.stages.context import Context
from semievol_ray.stages.known_answers import Known, known_answers, some_questions
from semievol_ray.stages.run_view import ModelRef, what_rounds_left
from semievol_ray.stages.stage import (
    Outcome,
    Stage,
    engine_settings,
    retrieval_settings,
    task_settings,
)
from semievol_ray.store import RunDirectory, layout

NAME = "classifiers"
# In the fingerprint: whoever changes what is fitted to the same answers raises it.
CLASSIFIERS_VERSION = 2


def run(context: Context, round_number: int) -> Outcome:
    """Write `<collaborator>/classifier.json` and `.safetensors` for each classifier that votes."""
    folder = context.folder(layout.round_stage(round_number, NAME))
    accepted = context.accepted_round(round_number)
    work = []
    for who, name in named(context.config).items():
        model = context.refitted(name, accepted).base
        asked = known_answers(context, model), some_questions(context, model)
        work.append((f"{folder}/{who}", model, *asked))
    context.progress.start(NAME, len(work), "classifiers")
    # In tasks: what embeds may be a model, whose memory is no business of the driver's.
    tasks = shard_map(context.config.ray, len(work), always_ray=True)
    files: list[str] = []
    for written in tasks(partial(_fit_one, context.run), work):
        files += written
        context.progress.advance(NAME, 1)
    examples = max(len(known) for _, _, known, _ in work)
    return Outcome({}, {"after_round": accepted, "examples": examples}, tuple(files))


def named(config: Config) -> dict[str, str]:
    """Names of the models that are classifiers, by the first collaborator that asks each."""
    found: dict[str, str] = {}
    for collaborator in config.collaborators:
        is_classifier = config.classifier_of(collaborator) is not None
        if is_classifier and collaborator.model not in found.values():
            assert collaborator.name is not None  # config names every one
            found[collaborator.name] = collaborator.model
    return found


def fitted(context: Context, round_number: int) -> dict[str, ModelRef]:
    """What the stage left, as models that answer, by collaborator."""
    folder = context.folder(layout.round_stage(round_number, NAME))
    found = {}
    for who, name in named(context.config).items():
        model = context.model(name, 1).base
        there = layout.reference(f"{folder}/{who}")
        found[who] = ModelRef(model.model_copy(update={"name": there}))
    return found


def _fit_one(run: RunDirectory, work: tuple[str, ModelConfig, Known, list[str]]) -> list[str]:
    folder, model, known, corpus = work
    names = []
    for name, content in fit(model, known, corpus).files().items():
        names.append(f"{folder}/{name}")
        run.write_bytes(names[-1], content)
    return names


def _settings(config: Config, _: int) -> dict[str, Any]:
    models = {
        who: engine_settings(config.models[name]) if name in config.models else name
        for who, name in named(config).items()
    }
    chosen = {"models": models, "iteration": {"mode": config.iteration.mode}}
    common = task_settings(config)
    common["code"] |= {"classifiers": CLASSIFIERS_VERSION}
    return common | chosen | {"retrieval": retrieval_settings(config)}


STAGE = Stage(
    NAME,
    run,
    _settings,
    # The rounds' selections are what their models were made from.
    lambda config, number: ["retrieve", *what_rounds_left(config, number)],
    writes=("*/classifier.json", "*/classifier.safetensors"),
    wanted=lambda config: bool(named(config)),
    follows_rounds=True,
)
