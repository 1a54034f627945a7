"""Which labels of a run look wrong: a few hundred of them calibrate everything that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from semievol_ray.classifiers.audit import Contradiction, audit
from semievol_ray.config_file import load_config
from semievol_ray.engines.classifier_engine import fit
from semievol_ray.errors import UserError
from semievol_ray.new_files import new_file
from semievol_ray.stages import classifiers
from semievol_ray.stages.known_answers import from_labels, some_questions
from semievol_ray.stages.run_view import RunView
from semievol_ray.store import RunDirectory, StageLedger, layout


@dataclass(frozen=True)
class Audit:
    """What was looked at, and what speaks against which of it."""

    labels: int
    classifiers: list[str]
    # example_id, question, label, expected, p_label, p_expected; the surest first.
    contradicted: pa.Table


def audit_labels(run_uri: str, overrides: Sequence[str] = ()) -> Audit:
    """Hold a run's labels against classifiers that had not seen them; the run stays as it is.

    The classifiers are those among its collaborators, or else a probe over its retrieval's
    embedder. Raises UserError where the task has no closed answers, or nothing was ingested.
    """
    directory = RunDirectory(run_uri)
    before = directory.read_mapping(layout.CONFIG)
    if before is None:
        raise UserError(f"{run_uri}: no run here")
    config = load_config(before | {"run_dir": run_uri}, tuple(overrides))
    view = RunView(config, directory, StageLedger(directory))
    if not view.ledger.is_done("ingest"):
        raise UserError(f"{run_uri}: nothing was ingested yet")
    if not view.task.is_closed:
        raise UserError(f"{run_uri}: labels of the kind {view.task.kind} have no classifier")
    names = list(classifiers.named(config).values()) or ["probe"]
    models = [view.model(name, 1).base for name in names]
    fits = [partial(fit, model, corpus=some_questions(view, model)) for model in models]
    found = audit(from_labels(view), fits)
    return Audit(len(view.labeled), names, _table(view.labeled, found))


def write_csv(table: pa.Table, path: Path) -> None:
    """Write the table to a new file. Raises UserError where there is one, or can be none."""
    with new_file(path) as file:
        pa.csv.write_csv(table, file)


def _table(labeled: pa.Table, found: Sequence[Contradiction]) -> pa.Table:
    rows = labeled.select(["example_id", "question"]).take(
        pa.array([c.row for c in found], "int64")
    )
    for name in ("label", "expected", "p_label", "p_expected"):
        kind = pa.float64() if name.startswith("p_") else pa.string()
        rows = rows.append_column(name, pa.array([getattr(c, name) for c in found], kind))
    return rows
