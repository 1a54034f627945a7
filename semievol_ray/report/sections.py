"""What a run made of its corpus, as rows for the page's tables; how they look is the page's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray.config import Config
from semievol_ray.report.corpus import Bin, Corpus, binned
from semievol_ray.report.table import Table, part_of, wilson
from semievol_ray.results import Run
from semievol_ray.store import Manifest, layout

_REASONS_SHOWN = 8
_BINS = 10
# Silence counts as it does for the vote: by its answers alone who seldom speaks would look best.
_RIGHT_ALONE = "right alone, of all rows with a known truth"

# -- from the corpus to the training set -----------------------------------------------------------


def funnel(manifests: Mapping[str, Manifest], corpus: Corpus, round_number: int) -> Table:
    """How many rows of the corpus came how far."""
    ingest = manifests["ingest"].statistics
    bad = ingest.get("bad_rows_of", {}).get("unlabeled", 0)
    before = ingest.get("rows_had_before", 0)
    left_out = before + ingest["already_labeled_rows"] + ingest.get("nearly_repeated_rows", 0)
    left_out += sum(ingest[n].get("unlabeled", 0) for n in ("contaminated_rows", "repeated_rows"))
    kept = ingest["rows"]["unlabeled"]
    n_valid, agreement = corpus.floats("n_valid"), corpus.floats("agreement")
    looked = "" if not corpus.is_sample else f" (of {len(corpus.rows):,} looked at)"
    steps = [
        ("read", kept + left_out + bad),
        ("that can be used", kept + left_out),
        ("neither repeated, nor labelled, nor in the test set" + ", and new" * bool(before), kept),
        (f"answered by a voter{looked}", corpus.answered),
        (f"with an answer that can be read{looked}", int((n_valid > 0).sum())),
        (f"all voters agreed{looked}", int(((agreement > 0.999) & (n_valid > 1)).sum())),
        (f"selected{looked}", int(corpus.flags("selected").sum())),
    ]
    evolve = manifests.get(layout.round_stage(round_number, "evolve"))
    if evolve is not None:
        trained = sum(n for name, n in evolve.outputs.items() if "/selected-" in name)
        steps.append(("trained on, with the labels beside them", trained))
        if earlier := sum(n for name, n in evolve.outputs.items() if "/examples/earlier/" in name):
            steps.append(("trained on, of the runs before", earlier))
    most = max(1, steps[0][1])
    rows = [(name, f"{count:,}") for name, count in steps]
    bars = [min(1.0, count / most) for _, count in steps]
    caption = "From the corpus to the training set"
    if round_number > 1:
        caption += f", as round {round_number} had it"
    return Table(caption, ("rows", "count"), rows, bars)


def reasons(corpus: Corpus) -> Table:
    """Why rows were, or were not, selected."""
    counted = corpus.rows["reason"].value_counts().to_pylist()
    counted.sort(key=lambda found: -found["counts"])
    rows = [(found["values"], f"{found['counts']:,}") for found in counted]
    return Table("Why rows were selected, or not", ("reason", "rows"), rows)


def quarantined(run: Run) -> Table | None:
    """Why rows could not be used; nothing where all could."""
    found = run.quarantine()
    if not len(found):
        return None
    counted = found.group_by(["split", "reason"]).aggregate([("row", "count")]).to_pylist()
    counted.sort(key=lambda row: -row["row_count"])
    rows = [(r["reason"], r["split"], f"{r['row_count']:,}") for r in counted[:_REASONS_SHOWN]]
    return Table(
        f"Quarantined: {len(found):,} rows, by their commonest reasons",
        ("reason", "set", "rows"),
        rows,
    )


# -- how sure, and how right -----------------------------------------------------------------------


def reliability_bins(run: Run, corpus: Corpus) -> dict[str, list[Bin]]:
    """Confidence against truth: of pseudo-answers, and of the models on the test set."""
    edges = np.linspace(0, 1, _BINS + 1).tolist()
    found: dict[str, list[Bin]] = {}
    if corpus.has_truth:
        known = corpus.rows["right"].is_valid().to_numpy() & ~np.isnan(corpus.floats("confidence"))
        confidence = corpus.floats("confidence", known)
        found["pseudo-answers"] = binned(confidence, corpus.flags("right")[known], edges)
    for model in (run.before, "SemiEvol") if run.metrics is not None else ():
        table = run.predictions(model)
        confidences = option_confidences(table["option_logprobs"])
        if confidences is not None:
            right = table["correct"].to_numpy()
            found[f"{model}, test set"] = binned(confidences, right, edges)
    return {name: bins for name, bins in found.items() if bins}


def option_confidences(logprobs: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """P of the likeliest option among the options of each row; null where none were scored."""
    if logprobs.null_count:
        return None
    found = []
    for row in logprobs.to_pylist():
        values = np.array(row, float)
        likely = np.exp(values - values.max())
        found.append(float(1 / likely.sum()))
    return np.array(found)


def agreement_bins(corpus: Corpus) -> list[Bin]:
    """Accuracy of pseudo-answers by the share of the votes they have."""
    voted = corpus.floats("n_valid") > 0
    known = corpus.rows["right"].is_valid().to_numpy() & voted
    values = corpus.floats("agreement", known)
    levels = np.unique(np.round(values, 6))
    edges = [*levels.tolist(), 1.01] if len(levels) <= _BINS else np.linspace(0, 1, 11).tolist()
    return binned(np.round(values, 6), corpus.flags("right")[known], edges)


def bins_table(caption: str, measured: str, bins: Sequence[Bin]) -> Table:
    """The figures behind a plot."""
    rows = [
        (
            f"{b.mean:.2f}",
            f"{b.rows:,}",
            f"{100 * b.right / b.rows:.1f}\u00a0%",
            wilson(b.right, b.rows),
        )
        for b in bins
    ]
    return Table(caption, (measured, "rows", "right", "interval"), rows)


# -- the voters ------------------------------------------------------------------------------------


def voters(corpus: Corpus) -> Table:
    """Each voter alone, and what the plain vote is without it."""
    header = ["voter", "answers", "of its responses"]
    if corpus.has_truth:
        header += [_RIGHT_ALONE, "vote's gain by it, points", "rows won / lost"]
    else:
        header += ["answers of the vote that change without it"]
    rows = []
    for name, voter in corpus.voters.items():
        row = [name, f"{voter.answers:,}", part_of(voter.answers, voter.responses)]
        if corpus.has_truth:
            gain = (voter.won - voter.lost) / max(1, corpus.known)
            alone = part_of(voter.right, corpus.known)
            row += [alone, f"{100 * gain:+.2f}", f"{voter.won} / {voter.lost}"]
        else:
            row += [f"{voter.changed:,}"]
        rows.append(row)
    if corpus.has_truth:
        share = part_of(corpus.vote_right, corpus.known)
        rows.append(["all, by plain vote", "", "", share, "", ""])
    return Table("What each voter added (leave-one-out, by plain vote)", header, rows)


def pairwise(corpus: Corpus) -> Table:
    """How often two voters that both answered said the same."""
    names = list(corpus.voters)
    rows = [
        [a, *(part_of(corpus.equal[a, b], corpus.both[a, b]) for b in names)] for a in names
    ]  # fmt: skip
    return Table("Agreement of each two voters", ["voter", *names], rows)


# -- rounds, time and money ------------------------------------------------------------------------


def rounds(manifests: Mapping[str, Manifest], metrics: Mapping[str, Any] | None) -> Table:
    """What each round selected, how right that is, and what the guard said."""
    right = {f["round"]: f for f in (metrics or {}).get("pseudo_answers") or ()}
    rows = []
    for number in _rounds(manifests):
        select = manifests[layout.round_stage(number, "select")].statistics
        guard = manifests.get(layout.round_stage(number, "guard"))
        counts = right.get(number)
        known = "" if counts is None else part_of(counts["selected_correct"], counts["selected"])
        kept = "" if guard is None else ("kept" if guard.statistics["kept"] else "rolled back")
        changed = select.get("changed_rows")
        rows.append((str(number), f"{select['reasons'].get('selected', 0):,}", known,
                     "" if changed is None else f"{changed:,}", kept))  # fmt: skip
    header = ("round", "selected", "of them right", "selected anew or otherwise", "guard")
    return Table("Rounds", header, rows)


def _rounds(manifests: Mapping[str, Manifest]) -> Iterator[int]:
    number = 1
    while layout.round_stage(number, "select") in manifests:
        yield number
        number += 1


def costs(manifests: Mapping[str, Manifest]) -> Table:
    """Time, tokens and money by stage."""
    rows, sums = [], [0.0, 0, 0.0]
    for manifest in manifests.values():
        found = manifest.statistics
        tokens = found.get("tokens") or 0
        prompts = found.get("prompt_tokens") or 0
        money = found.get("spent_cost") or 0.0
        sums = [sums[0] + manifest.seconds, sums[1] + tokens + prompts, sums[2] + money]
        written = [f"{count:,}" if count else "" for count in (prompts, tokens)]
        spent = f"{money:,.2f}" if money else ""
        rows.append((manifest.stage, f"{manifest.seconds:,.1f}", *written, spent))
    rows.append(("together", f"{sums[0]:,.1f}", "", f"{sums[1]:,}", f"{sums[2]:,.2f}"))
    header = ("stage", "seconds", "prompt tokens", "tokens written or trained on", "money")
    return Table("Time, tokens and money", header, rows)


def versions(manifests: Mapping[str, Manifest]) -> Table:
    """Versions of the packages, as the stages had them."""
    found: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for name, version in manifest.versions.items():
            found.setdefault(name, set()).add(version)
    rows = [(name, ", ".join(sorted(seen))) for name, seen in sorted(found.items())]
    return Table("Packages", ("package", "version"), rows)


def fingerprints(manifests: Mapping[str, Manifest]) -> Table:
    """What each stage's work is known by."""
    rows = [
        (m.stage, str(m.attempt), m.fingerprint, m.finished_at or "") for m in manifests.values()
    ]
    return Table("Stages", ("stage", "attempt", "fingerprint", "finished"), rows)


def selected_is_by_entropy(config: Config) -> bool:
    """Whether the selection is one threshold of entropies, which a figure can show."""
    return config.selection.policy == "paper"
