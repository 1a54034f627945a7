"""What came of it on the test set: the headline, other runs, classes and subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.report.table import Table, interval, share
from semievol_ray.results import Run
from semievol_ray.stages.evaluate import as_good_as_evolved, pairs_to_read
from semievol_ray.stages.statistics import SIGNIFICANCE, mcnemar_exact, paired_interval

# More classes than this are told by their largest changes, more answers by their commonest errors.
_MOST_CLASSES = 30
_MOST_CONFUSED = 12
# What labelled first, by its name among the models.
_BEFORE = {"SFT": "fine-tuning on the labels alone", "earlier": "the run that this one continues"}


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """What came of it, in sentences."""
    models = metrics["models"]
    name = next(name for name in _BEFORE if name in models)
    after, before = models["SemiEvol"], models[name]
    pair = next(p for p in metrics["pairs"] if (p["first"], p["second"]) == (name, "SemiEvol"))
    better = "better" if pair["difference"] > 0 else "worse"
    said = (
        f"significantly {better} than"
        if pair["mcnemar_p"] < SIGNIFICANCE
        else "not to be told from"
    )
    found = [
        f"SemiEvol has {share(after)} of {after['rows']:,} test rows right "
        f"({interval(after)}), {_BEFORE[name]} {share(before)}.",
        f"It is {said} that: {pair['only_second_right']} rows won, {pair['only_first_right']} "
        f"lost, McNemar's p = {pair['mcnemar_p']:.2g}.",
    ]
    found += [
        f"{name} has {share(models[name])} right, {said}: where the name of an answer is all that "
        "is needed, it gives it at a fraction of the cost."
        for name, said in as_good_as_evolved(metrics).items()
    ]
    return found


def models_table(metrics: Mapping[str, Any]) -> Table:
    """Accuracies with intervals."""
    rows = [
        (name, share(m), interval(m), f"{m['correct']:,} of {m['rows']:,}", f"{m['unparsed']:,}")
        for name, m in metrics["models"].items()
    ]
    header = ("model", "accuracy", "interval", "right", "without an answer")
    return Table("Accuracy on the test set", header, rows)


def pairs_table(metrics: Mapping[str, Any]) -> Table:
    """The paired test of each pair of models."""
    rows = [
        (
            f"{p['second']} against {p['first']}",
            f"{100 * p['difference']:+.1f}",
            f"{p['only_second_right']:,}",
            f"{p['only_first_right']:,}",
            f"{p['mcnemar_p']:.2g}",
        )
        for p in pairs_to_read(metrics)
    ]
    header = ("pair", "points", "rows won", "rows lost", "McNemar's p")
    return Table("Paired comparisons: the same test rows, answered by both", header, rows)


def comparison(found: Mapping[str, Any]) -> Table:
    """The table of `semievol compare`, by the `compare.json` that it keeps."""
    rows = []
    for arm in found["arms"]:
        against = arm["against_sft"]
        gain, counts, p, over = "", "", "", ""
        if against is not None:
            gain = f"{against['mean']:+.1f}"
            counts = f"{against['only_second_right']:,} / {against['only_first_right']:,}"
            p = f"{against['p']:.2g}"
            if against["low"] is not None:
                over = f"{against['low']:+.1f} to {against['high']:+.1f}"
        gap = "" if arm["gap_share"] is None else f"{100 * arm['gap_share']:.0f}\u00a0%"
        mean, seeds = f"{arm['accuracy']:.1f}\u00a0%", str(len(arm["by_seed"]))
        time = f"{arm['seconds']:,.0f} s"
        rows.append((arm["arm"], mean, seeds, gain, over, counts, p, gap, time))
    header = ("arm", "accuracy", "seeds", "against SFT", "over seeds", "won / lost", "paired p",
              "of the gap", "time")  # fmt: skip
    return Table("Arms beside each other", header, rows)


def other_runs(run: Run, others: Sequence[Run]) -> Table:
    """This run's model against others', over the test rows that both answered."""
    mine = run.predictions()
    rows = []
    for other in others:
        theirs = other.predictions()
        at = pc.index_in(mine["example_id"], value_set=theirs["example_id"].combine_chunks())
        shared = at.is_valid()
        right = mine["correct"].filter(shared).to_pylist()
        against = theirs["correct"].take(at.filter(shared)).to_pylist()
        if not right:
            rows.append((other.uri, "no test row in common", "", "", "", ""))
            continue
        lost, won, p = mcnemar_exact(against, right)
        rows.append(
            (
                other.uri,
                f"{len(right):,}",
                f"{100 * sum(against) / len(right):.1f}\u00a0%",
                f"{100 * sum(right) / len(right):.1f}\u00a0%",
                f"{won:,} / {lost:,}",
                f"{p:.2g}",
            )
        )
    header = ("run", "rows in common", "it has right", "this run", "won / lost", "McNemar's p")
    return Table("Other runs: their evolved models on the same test rows", header, rows)


def changes(run: Run, column: str) -> list[tuple[str, float, float, float]]:
    """Points gained by class or subject, with intervals: (name, low, difference, high)."""
    before, after = run.predictions(run.before), run.predictions("SemiEvol")
    names = before[column].to_pylist()
    values = sorted({name for name in names if name is not None})
    if len(values) < 2 or len(values) * 2 > len(names):
        return []  # one class, or answers that are no classes
    right = [t["correct"].to_pylist() for t in (before, after)]
    found = []
    for value in values:
        rows = [i for i, name in enumerate(names) if name == value]
        first, second = ([flags[i] for i in rows] for flags in right)
        low, difference, high = paired_interval(first, second, 0.95)
        found.append((value, 100 * low, 100 * difference, 100 * high))
    if len(found) > _MOST_CLASSES:
        largest = sorted(found, key=lambda row: -abs(row[2]))[:_MOST_CLASSES]
        found = sorted(largest)
    return found


def changes_table(run: Run, column: str, called: str) -> Table:
    """Accuracy by class or subject, before and after."""
    metrics = run.metrics or {}
    both = (run.before, "SemiEvol")
    parts = {n: metrics["models"][n][f"per_{called}"] for n in both}
    gains = {name: (low, high) for name, low, _, high in changes(run, column)}
    rows = []
    for name in gains:
        before, after = (parts[model].get(name) for model in both)
        if before is None or after is None:
            continue
        low, high = gains[name]
        rows.append((name, f"{before['rows']:,}", f"{share(before)} ({interval(before)})",
                     f"{share(after)} ({interval(after)})",
                     f"{100 * (after['accuracy'] - before['accuracy']):+.1f}",
                     f"{low:+.1f} to {high:+.1f}"))  # fmt: skip
    header = (called, "test rows", *both, "points", "interval of the gain")
    return Table(f"By {called}, before and after", header, rows)


def confusions(run: Run) -> list[Table]:
    """True classes against answers, before and after; of many classes the commonest errors."""
    tables = {model: run.predictions(model) for model in (run.before, "SemiEvol")}
    classes = sorted(set(tables["SemiEvol"]["gold"].to_pylist()))
    if len(classes) <= _MOST_CONFUSED:
        return [_matrix(name, table, classes) for name, table in tables.items()]
    counts = {name: _errors(table) for name, table in tables.items()}
    pairs = {pair for counted in counts.values() for pair in counted}
    worst = sorted(pairs, key=lambda p: (-max(c.get(p, 0) for c in counts.values()), p))
    rows = [
        (gold, said, *(str(counted.get((gold, said), 0)) for counted in counts.values()))
        for gold, said in worst[:_MOST_CONFUSED]
    ]
    return [Table("The commonest errors", ("true", "answered", *counts), rows)]


def _matrix(model: str, table: pa.Table, classes: Sequence[str]) -> Table:
    counted = _pairs(table)
    said = [*classes, None]
    rows = [[gold, *(f"{counted.get((gold, s), 0):,}" for s in said)] for gold in classes]
    return Table(f"{model}: true classes (rows) and answers", ["true", *classes, "none"], rows)


def _errors(table: pa.Table) -> dict[tuple[str, str], int]:
    pairs = _pairs(table.filter(pc.invert(table["correct"])))
    return {(gold, said or "no answer"): count for (gold, said), count in pairs.items()}


def _pairs(table: pa.Table) -> dict[tuple[str, str | None], int]:
    grouped = table.group_by(["gold", "answer"]).aggregate([("example_id", "count")])
    return {(r["gold"], r["answer"]): r["example_id_count"] for r in grouped.to_pylist()}
