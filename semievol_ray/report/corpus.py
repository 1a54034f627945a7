"""What a round made of the unlabelled corpus: one pass over its shards, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from semievol_ray.engines import FAILED
from semievol_ray.selection import Groups, collaborator_agreement, consensus, mean_nll
from semievol_ray.stages import justify
from semievol_ray.stages.run_view import RunView, looked_up
from semievol_ray.store import layout

# Of a larger corpus so many rows are looked at, from shards that lie evenly in it.
MOST_ROWS = 1_000_000

_SELECTION = ["example_id", "pseudo_answer", "entropy", "n_valid", "agreement", "vote_entropy",
              "margin", "selected", "reason"]  # fmt: skip
_RESPONSES = ["example_id", "collaborator", "answer", "finish_reason", "token_logprobs"]


@dataclass
class Voter:
    """What one collaborator said, and what the plain vote is with it and without it."""

    responses: int = 0
    answers: int = 0
    # Of the rows whose true answer is known: those where its answer is right.
    right: int = 0
    # Rows where the vote without it is another answer; of the known ones, which it won and lost.
    changed: int = 0
    won: int = 0
    lost: int = 0


@dataclass
class Corpus:
    """The rows of a round that were looked at, and what their voters said."""

    # The SELECTION columns that are numbers or words, with `right` (null where the truth is not
    # known), `confidence` (null without one) and `justified` (the vote was overruled).
    rows: pa.Table
    # Of the whole round, looked at or not.
    all_rows: int
    answered: int = 0
    voters: dict[str, Voter] = field(default_factory=dict)
    # Examples that two voters both answered, and gave the same answer to.
    both: Counter[tuple[str, str]] = field(default_factory=Counter)
    equal: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: int = 0
    vote_right: int = 0

    @property
    def is_sample(self) -> bool:
        """Whether not all rows were looked at."""
        return len(self.rows) < self.all_rows

    @property
    def has_truth(self) -> bool:
        """Whether the user's file held answers, which no stage that trains has seen."""
        return self.known > 0

    def floats(self, name: str, where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """A column as numbers, NaN for null."""
        column = self.rows[name].cast(pa.float64()).to_numpy()
        return column if where is None else column[where]

    def flags(self, name: str) -> NDArray[np.bool_]:
        """A column of booleans; null is false."""
        return self.rows[name].fill_null(False).to_numpy().astype(bool)


def look_through(view: RunView, round_number: int, most_rows: int = MOST_ROWS) -> Corpus:
    """Read a round's selection, votes and, where they are known, true answers."""
    selections = view.folder(layout.round_stage(round_number, "select"))
    shards = view.shards("unlabeled")
    taken = _evenly(shards, most_rows)
    corpus = Corpus(pa.table({}), sum(shards.values()))
    tables = []
    for shard in taken:
        selection = view.run.read_table(layout.same_shard(shard, selections))
        truth = view.true_answers(shard, selection["example_id"])
        justified = _votes(view, shard, round_number, truth, corpus)
        tables.append(_row_facts(view, selection, truth, justified))
    corpus.rows = pa.concat_tables(tables)
    return corpus


def _evenly(shards: Mapping[str, int], most_rows: int) -> list[str]:
    """Names of shards that together have no more rows than that, one at least."""
    names = list(shards)
    step = max(1, -(-sum(shards.values()) // most_rows))
    return names[::step]


def _row_facts(
    view: RunView, selection: pa.Table, truth: pa.Array, justified: pa.Array
) -> pa.Table:
    right = view.task.correct(selection["pseudo_answer"].combine_chunks(), truth)
    right = pc.if_else(truth.is_valid(), right, pa.scalar(None, pa.bool_()))
    facts = selection.select(_SELECTION).append_column("right", right)
    facts = facts.append_column("confidence", _confidence(selection))
    overruled = pc.and_(
        justified.is_valid(), pc.not_equal(justified, selection["pseudo_answer"].combine_chunks())
    )
    return facts.append_column("justified", pc.fill_null(overruled, False))


def _confidence(selection: pa.Table) -> pa.Array:
    """P of the pseudo-answer: by the policy's distribution, or by its tokens' geometric mean."""
    distributions = selection["distribution"].combine_chunks()
    likely = np.exp(-selection["entropy"].cast(pa.float64()).to_numpy())
    if distributions.null_count < len(distributions):
        lists = distributions.to_pylist()
        most = [max(row) if row else np.nan for row in lists]
        likely = np.where(np.isnan(np.array(most, float)), likely, most)
    return pa.array(likely, from_pandas=True)


def _votes(
    view: RunView, shard: str, round_number: int, truth: pa.Array, corpus: Corpus
) -> pa.Array:
    """Count a shard's votes; the plain vote's answer of each row that justify answered anew."""
    selections = view.folder(layout.round_stage(round_number, "select"))
    ids = view.run.read_table(layout.same_shard(shard, selections), ["example_id"])[
        "example_id"
    ].combine_chunks()
    nothing = pa.nulls(len(ids), pa.string())
    folder = view.folder(layout.round_stage(round_number, "generate"))
    table = view.run.read_table(layout.same_shard(shard, folder), _RESPONSES)
    if not len(table):
        return nothing
    failed = pc.is_in(table["finish_reason"], pa.array(FAILED))
    corpus.answered += pc.count_distinct(table.filter(pc.invert(failed))["example_id"]).as_py()
    table = table.append_column("nll", mean_nll(table["token_logprobs"].combine_chunks()))
    winners = _winners(view, table, ids)
    known, right = truth.is_valid(), _right(view, winners, truth)
    corpus.known += pc.sum(known).as_py() or 0
    corpus.vote_right += int(right.sum())
    _count_voters(view, table, ids, truth, winners, right, corpus)
    _count_pairs(table, corpus)
    answered = _justified_ids(view, shard, round_number)
    if answered is None:
        return nothing
    return pc.if_else(pc.is_in(ids, value_set=answered), winners, pa.scalar(None, pa.string()))


def _count_voters(
    view: RunView,
    table: pa.Table,
    ids: pa.Array,
    truth: pa.Array,
    winners: pa.Array,
    right: NDArray[np.bool_],
    corpus: Corpus,
) -> None:
    names = pc.unique(table["collaborator"]).to_pylist()
    for name in names:
        voter = corpus.voters.setdefault(name, Voter())
        own = table.filter(pc.field("collaborator") == name)
        answers = looked_up(own, "answer", ids)
        voter.responses += len(own)
        voter.answers += len(own) - own["answer"].null_count
        voter.right += int(_right(view, answers, truth).sum())
        if len(names) == 1:
            continue
        without = _winners(view, table.filter(pc.field("collaborator") != name), ids)
        same = view.task.correct(without, winners) if len(without) else pa.array([], pa.bool_())
        differs = pc.or_(
            pc.not_equal(without.is_valid(), winners.is_valid()),
            pc.and_(winners.is_valid(), pc.invert(pc.fill_null(same, False))),
        )
        voter.changed += pc.sum(differs).as_py() or 0
        right_without = _right(view, without, truth)
        voter.won += int((right & ~right_without).sum())
        voter.lost += int((right_without & ~right).sum())


def _count_pairs(table: pa.Table, corpus: Corpus) -> None:
    found = collaborator_agreement(
        Groups(table["example_id"]), table["collaborator"], table["answer"]
    )
    names = found["collaborators"]
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            both = found["both"][i][j]
            if both:
                corpus.both[first, second] += both
                corpus.equal[first, second] += round(both * found["agreement"][i][j])


def _winners(view: RunView, table: pa.Table, ids: pa.Array) -> pa.Array:
    """The plain vote's answer of each example; null where there is none."""
    groups = Groups(table["example_id"])
    tolerance = view.task.relative_tolerance if view.task.kind == "numeric" else 0.0
    votes = consensus(groups, table["answer"], table["nll"], tolerance=tolerance)
    found = pa.table({"example_id": groups.ids(), "winner": votes["winner"]})
    return looked_up(found, "winner", ids)


def _right(view: RunView, answers: pa.Array, truth: pa.Array) -> NDArray[np.bool_]:
    found = pc.fill_null(view.task.correct(answers, truth), False)
    return found.to_numpy(zero_copy_only=False).astype(bool)


def _justified_ids(view: RunView, shard: str, round_number: int) -> pa.Array | None:
    if not justify.STAGE.wanted(view.config):
        return None
    name = layout.round_stage(round_number, "justify")
    path = layout.same_shard(shard, view.folder(name))
    if not view.run.exists(path):
        return None
    return view.run.read_table(path, ["example_id"])["example_id"].combine_chunks()


@dataclass(frozen=True)
class Bin:
    """Rows whose figure lies in an interval, and how many of them are right."""

    low: float
    high: float
    rows: int
    mean: float
    right: int


def binned(
    values: NDArray[np.float64], right: NDArray[np.bool_], edges: Sequence[float]
) -> list[Bin]:
    """Rows by intervals of `edges` (the last one closed); empty ones are left out."""
    where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    found = []
    for i in range(len(edges) - 1):
        inside = where == i
        if rows := int(inside.sum()):
            mean, hits = float(values[inside].mean()), int(right[inside].sum())
            found.append(Bin(edges[i], edges[i + 1], rows, mean, hits))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: |confidence - accuracy|, averaged over rows (Naeini, 2015)."""
    rows = sum(b.rows for b in bins)
    return sum(abs(b.mean * b.rows - b.right) for b in bins) / rows if rows else float("nan")
