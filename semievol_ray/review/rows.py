"""Unlabelled examples of a run with what was voted on them, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.errors import UserError
from semievol_ray.results import Run
from semievol_ray.review.where import Condition
from semievol_ray.stages.run_view import RunView, looked_up
from semievol_ray.store import RunDirectory, StageLedger, layout

# Of the selection and of the examples, in the order in which they are shown. `true_answer` is the
# user's own where the corpus held answers, which no stage that trains has seen.
COLUMNS = (
    "example_id", "selected", "reason", "pseudo_answer", "true_answer", "entropy", "agreement",
    "margin", "vote_entropy", "n_valid", "score", "question", "context", "options", "subject",
)  # fmt: skip

_LONGEST_LINE = 200


@dataclass(frozen=True)
class Vote:
    """What one collaborator, or the justify stage, said."""

    collaborator: str
    answer: str | None
    text: str | None


@dataclass(frozen=True)
class Row:
    """An example as COLUMNS has it, and the votes on it."""

    values: dict[str, Any]
    votes: list[Vote]

    def lines(self) -> list[str]:
        """The row as people read it."""
        v = self.values
        entropy = "" if v["entropy"] is None else f", entropy {v['entropy']:.3f}"
        known = "" if v["true_answer"] is None else f" (true: {v['true_answer']})"
        votes = ", ".join(f"{vote.collaborator}: {vote.answer or '-'}" for vote in self.votes)
        options = "" if v["options"] is None else f" [{' | '.join(v['options'])}]"
        return [
            f"{v['example_id']}: {v['reason']}, agreement {v['agreement']:.2f}{entropy}",
            f"  {_short(v['question'] + options)}",
            f"  {_short(votes)}",
            f"  pseudo-answer: {v['pseudo_answer'] or 'none'}{known}",
        ]


def rows_of(run: Run, where: str | None = None, round_number: int = 1) -> Iterator[Row]:
    """The unlabelled examples that a round selected from, or those that meet a condition.

    Raises UserError where that round selected nothing yet, or the condition is none.
    """
    condition = None if where is None else Condition(where, [c for c in COLUMNS if c != "options"])
    return _rows(run, round_number, (lambda rows: rows) if condition is None else condition.rows)


def rows_with_ids(run: Run, ids: Collection[str], round_number: int = 1) -> Iterator[Row]:
    """Some of them by their ids, in the order of the run's own."""
    wanted = pa.array(ids, pa.string())
    return _rows(run, round_number, lambda rows: rows.filter(pc.is_in(rows["example_id"], wanted)))


def _rows(run: Run, round_number: int, chosen: Callable[[pa.Table], pa.Table]) -> Iterator[Row]:
    view = RunView(run.config(), run.directory, StageLedger(run.directory))
    name = layout.round_stage(round_number, "select")
    if not view.ledger.is_done(name):
        raise UserError(f"{run.uri}: nothing was selected in round {round_number} yet")
    for shard in view.shards("unlabeled"):
        table = chosen(_joined(view, shard, view.folder(name)))
        if table.num_rows:
            votes = _votes(view, shard, round_number, table["example_id"].combine_chunks())
            for values in table.to_pylist():
                yield Row(values, votes.get(values["example_id"], []))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


def _joined(view: RunView, shard: str, selections: str) -> pa.Table:
    """The selection of a shard with its examples' own columns and, where known, their answers."""
    found = view.run.read_table(layout.same_shard(shard, selections))
    examples = view.run.read_table(shard)
    for name in ("question", "context", "options", "subject"):
        found = found.append_column(name, looked_up(examples, name, found["example_id"]))
    answers = view.true_answers(shard, found["example_id"])
    return found.append_column("true_answer", answers).select(list(COLUMNS))


def _votes(view: RunView, shard: str, round_number: int, ids: pa.Array) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = {}
    for stage in ("generate", "justify"):
        name = layout.round_stage(round_number, stage)
        manifest = view.ledger.get(name)
        if manifest is None:
            continue
        table = _read(view.run, layout.same_shard(shard, manifest.folder))
        if table is None:
            continue
        rows = table.filter(pc.is_in(table["example_id"], value_set=ids))
        for row in rows.to_pylist():
            vote = Vote(row["collaborator"], row["answer"], row["text"])
            found.setdefault(row["example_id"], []).append(vote)
    return found


def _read(run: RunDirectory, name: str) -> pa.Table | None:
    if not run.exists(name):
        return None
    return run.read_table(name, ["example_id", "collaborator", "answer", "text"])
