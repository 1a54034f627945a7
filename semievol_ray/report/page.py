"""The page: sections and figures to one HTML file that asks for nothing else.

The browser is told so as well: its content security policy lets no request out and runs the
page's own script alone, by its hash, whatever a row of the data holds.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from semievol_ray.config_file import config_yaml
from semievol_ray.errors import UserError
from semievol_ray.new_files import replaced_file
from semievol_ray.report import accuracy, figures, sections
from semievol_ray.report.corpus import Corpus, calibration_error, look_through
from semievol_ray.report.examples import compared_examples, corpus_examples, worth_labelling
from semievol_ray.report.table import Table
from semievol_ray.results import Run
from semievol_ray.review import Row
from semievol_ray.stages.run_view import RunView
from semievol_ray.store import RunDirectory, StageLedger, layout

# By this a later report knows that an earlier one may be written over.
MARK = '<meta name="generator" content="semievol_ray report">'
_CSV_MARK = "example_id,vote_entropy,margin,pseudo_answer,question"


@dataclass(frozen=True)
class Report:
    """Where a report was written."""

    html: str
    # Rows worth labelling next; they are in the page too.
    csv: str


def write_report(run: Run, others: Sequence[str] = (), output: Path | None = None) -> Report:
    """Write a run's report: `report.html` and `worth-labelling.csv` in it, or where `output` says.

    `others` are URIs of runs, or of what `semievol compare` left, that are set beside it.
    A file of another's is not written over. Raises UserError where nothing was selected yet, and
    where a run without a test set is to be compared.
    """
    if others and run.metrics is None:
        raise UserError(f"{run.uri}: has no results on a test set, and so none to compare")
    round_number = _last_round(run)
    view = RunView(run.config(), run.directory, StageLedger(run.directory))
    corpus = look_through(view, round_number)
    doubted = worth_labelling(run, corpus, round_number)
    html = render(run, view, corpus, others, round_number, doubted).encode()
    table = _as_csv(doubted).encode()
    if output is None:
        run.directory.write_bytes(layout.REPORT, html)
        run.directory.write_bytes(layout.WORTH_LABELLING, table)
        where = run.directory.uri_of
        return Report(where(layout.REPORT), where(layout.WORTH_LABELLING))
    beside = output.with_suffix(".worth-labelling.csv")
    with replaced_file(beside, _CSV_MARK) as file:
        file.write(table)
    with replaced_file(output, MARK) as file:
        file.write(html)
    return Report(str(output), str(beside))


def render(
    run: Run,
    view: RunView,
    corpus: Corpus,
    others: Sequence[str],
    round_number: int,
    doubted: Sequence[Row],
) -> str:
    """The page as text."""
    manifests = {m.stage: m for m in run.manifests if m.state == "done"}
    metrics = run.metrics
    examples = corpus_examples(run, corpus, round_number)
    if metrics is not None:
        examples += compared_examples(run)
    style, script = _own("page.css"), _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_own("page.html.jinja")).render(
        mark=Markup(MARK),
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        run=run.uri,
        version=importlib.metadata.version("semievol-ray"),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        task=view.task.kind,
        model=view.config.model.name.rstrip("/").rpartition("/")[2],
        policy=view.config.selection.policy,
        verdict=[] if metrics is None else accuracy.verdict(metrics),
        results=[] if metrics is None else _results(run, metrics, others),
        funnel=_funnel(run, corpus, manifests, round_number),
        sample=f"{len(corpus.rows):,} of {corpus.all_rows:,}" if corpus.is_sample else "",
        certainty=_certainty(run, view, corpus),
        voters=[sections.voters(corpus), sections.pairwise(corpus)],
        classes=[] if metrics is None else _classes(run, view),
        rounds=sections.rounds(manifests, metrics),
        costs=sections.costs(manifests),
        examples=examples,
        kinds=list(dict.fromkeys(kind for e in examples for kind in e.kinds)),
        doubted=doubted,
        config=config_yaml(view.config),
        provenance=[sections.versions(manifests), sections.fingerprints(manifests)],
    )


@dataclass(frozen=True)
class Figure:
    """A figure with its caption, and the table of what it draws."""

    svg: str
    caption: str
    table: Table | None = None


def _results(run: Run, metrics: dict[str, Any], others: Sequence[str]) -> list[Any]:
    svg = figures.accuracies(metrics["models"])
    share = f"{100 * run.config().evaluation.confidence:.0f} %"
    drawn = Figure(svg, f"Accuracy with its interval ({share}, Wilson)")
    found = [drawn, accuracy.models_table(metrics), accuracy.pairs_table(metrics)]
    comparisons = {uri: RunDirectory(uri).read_json(layout.COMPARISON) for uri in others}
    found += [accuracy.comparison(kept) for kept in comparisons.values() if kept is not None]
    runs = [Run(uri) for uri, kept in comparisons.items() if kept is None]
    return [*found, *([accuracy.other_runs(run, runs)] if runs else [])]


def _funnel(run: Run, corpus: Corpus, manifests: Any, round_number: int) -> list[Table]:
    found = [sections.funnel(manifests, corpus, round_number), sections.reasons(corpus)]
    quarantined = sections.quarantined(run)
    return found if quarantined is None else [*found, quarantined]


def _certainty(run: Run, view: RunView, corpus: Corpus) -> list[Figure]:
    found = []
    known = ~np.isnan(corpus.floats("entropy"))
    if corpus.has_truth:
        known &= corpus.rows["right"].is_valid().to_numpy()
    values = corpus.floats("entropy", known)
    if len(values):
        right = corpus.flags("right")[known] if corpus.has_truth else None
        threshold = None
        selected = values[corpus.flags("selected")[known]]
        if sections.selected_is_by_entropy(view.config) and len(selected):
            threshold = float(selected.max())
        caption = "Entropy of pseudo-answers" + (
            ", right and wrong ones" if corpus.has_truth else ""
        )
        beyond = " The largest hundredth is left out."
        found.append(Figure(figures.entropies(values, right, threshold), f"{caption}.{beyond}"))
    bins = sections.reliability_bins(run, corpus)
    if bins:
        errors = ", ".join(f"{name} {100 * calibration_error(b):.1f}" for name, b in bins.items())
        caption = f"Reliability. Expected calibration error in points: {errors}."
        name, first = next(iter(bins.items()))
        table = sections.bins_table(f"Reliability of {name}", "confidence", first)
        found.append(Figure(figures.reliability(bins), caption, table))
    if corpus.has_truth and (levels := sections.agreement_bins(corpus)):
        table = sections.bins_table("Accuracy by agreement", "agreement", levels)
        caption = "Accuracy of pseudo-answers by the agreement of the votes."
        found.append(Figure(figures.agreement(levels), caption, table))
    return found


def _classes(run: Run, view: RunView) -> list[Any]:
    found: list[Any] = []
    by = (("gold", "class"),) if view.task.is_closed else ()
    for column, called in (*by, ("subject", "subject")):
        if gains := accuracy.changes(run, column):
            svg = figures.changes(gains)
            caption = f"What evolution gained or lost by {called}, with intervals of 95 %."
            found.append(Figure(svg, caption, accuracy.changes_table(run, column, called)))
    return [*found, *accuracy.confusions(run)] if view.task.is_closed else found


def _last_round(run: Run) -> int:
    done = {m.stage for m in run.manifests if m.state == "done"}
    number = 0
    while layout.round_stage(number + 1, "select") in done:
        number += 1
    if not number:
        raise UserError(f"{run.uri}: nothing was selected yet: there is nothing to report")
    return number


def _as_csv(rows: Sequence[Row]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    names = _CSV_MARK.split(",")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_no_formula(row.values[name]) for name in names])
    return sink.getvalue()


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would compute, as text."""
    begins = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if begins else value


def _own(name: str) -> str:
    return resources.files("semievol_ray.report").joinpath(name).read_text(encoding="utf-8")
