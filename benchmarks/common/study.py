"""A study as rows of a benchmark's report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.common.report import Row, row
from semievol_ray.comparing.study import Comparison, Study


def accuracy_row(study: Study, claim: str, model: str, peer: str, *, goal: float | None) -> Row:
    """The mean accuracies of two models as a row of the report."""
    ours, theirs = (statistics.fmean(study.accuracies(name)) for name in (model, peer))
    return row(claim, ours, theirs, peer, unit="% right", goal=goal)


def details(study: Study, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the report's file keeps beside its rows."""
    return {
        "accuracies": {model: study.accuracies(model) for model in study.correct},
        "comparisons": [asdict(c) for c in comparisons],
    }
