"""`select` and `select_shards`: the same rows from one table or from any number of shards.

Every pass maps a function over the shards, and what comes back of a shard is small; so memory is
bounded by the largest shard, and a Ray-backed map spreads the work. A shard is a callable that
gives its `Examples`, read anew at each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from semievol_ray import _native
from semievol_ray.selection.distinct import Distinct
from semievol_ray.selection.examples import SCORED, Examples, columns, examples_of
from semievol_ray.selection.policies.policy import (
    Decision,
    Map,
    Passes,
    Policy,
    Shard,
    hashes_within,
)
from semievol_ray.selection.tables import Table, as_table
from semievol_ray.selection.thresholds import Keys

_CLOSED, _OPEN = ("multiple_choice", "label"), ("numeric", "text")


def select(
    responses: Table,
    justified: Table | None,
    scored: Table | None = None,
    *,
    policy: Policy,
    kind: str,
    relative_tolerance: float = 0.0,
) -> pa.Table:
    """The SELECTION table of a table of responses, sorted by example id.

    `responses` has the columns example_id, answer, tokens and token_logprobs of the RESPONSE
    schema (answer_text too for "numeric" and "text"; option_logprobs for policies of distributions,
    and collaborator for those that weigh voters), several rows for each example; `justified` the
    same with at most one row for each example; `scored`, in the SCORE schema, the winners whose
    entropies are not those of their votes. Tables of pyarrow, polars, pandas and duckdb will do,
    and mappings from names to columns; a null in `tokens` is no token. `kind` and
    `relative_tolerance` say when two votes are one. What is selected is the policy's to say: see
    `semievol_ray.selection.policies`.

    Raises ValueError for a policy that the kind of task does not allow, and for a value that cannot
    be used, with its row.
    """
    reader = _reader(policy, kind, relative_tolerance)
    examples = reader.examples(
        as_table("responses", responses, reader.columns),
        None if justified is None else as_table("justified", justified, reader.verdict_columns),
        None if scored is None else as_table("scored", scored, SCORED),
    )
    (table,) = _select(policy, [lambda: examples], map)
    return table


def select_shards(
    responses: Sequence[str],
    justified: Sequence[str | None] | None,
    scored: Sequence[str] | None = None,
    *,
    filesystem: pafs.FileSystem,
    policy: Policy,
    kind: str,
    relative_tolerance: float = 0.0,
    map: Map = map,
    then: Callable[[int, pa.Table], Any] | None = None,
) -> Iterator[Any]:
    """`select` over Parquet shards: one SELECTION table for each, in their order, as they are done.

    All rows of an example lie in one shard (ValueError with its id where they do not), and the
    i-th justified shard goes with the i-th shard of responses (None where there is none), as the
    i-th scored one does.
    `map(function, shards)` applies a picklable function to each shard, in order; give one that runs
    Ray tasks to spread the work. Together the tables hold the rows of `select` over all shards as
    one table, whatever their number and order.

    `then(number, table)` is picklable and takes each table where it was made, so that no table
    travels; what it gives comes instead of the table.
    """
    reader = _reader(policy, kind, relative_tolerance)
    if justified is not None and len(justified) != len(responses):
        raise ValueError(
            f"{len(responses)} shards of responses, but {len(justified)} justified ones"
        )
    nothing = [None] * len(responses)
    parts = zip(responses, justified or nothing, scored or nothing, strict=True)
    shards = [partial(_read, reader, filesystem, *part) for part in parts]
    return _select(policy, shards, map, then)


@dataclass(frozen=True)
class _Reader:
    """How the examples of a shard are read for a policy."""

    policy: Policy
    tolerance: float
    # Open answers: their texts as written, beside what votes are counted by.
    texts: bool

    @property
    def columns(self) -> list[str]:
        return columns(
            options=self.policy.reads_options,
            texts=self.texts,
            voters=self.policy.weights() is not None,
        )

    @property
    def verdict_columns(self) -> list[str]:
        return columns(options=False, texts=self.texts)

    def examples(
        self, responses: pa.Table, justified: pa.Table | None, scored: pa.Table | None
    ) -> Examples:
        return examples_of(
            responses,
            justified,
            scored,
            tolerance=self.tolerance,
            classes=self.policy.most_options,
            texts=self.texts,
            weights=self.policy.weights(),
        )


def _reader(policy: Policy, kind: str, relative_tolerance: float) -> _Reader:
    if kind not in (*_CLOSED, *_OPEN):
        raise ValueError(f"kind: unknown kind {kind!r}")
    if policy.reads_options and kind not in _CLOSED:
        raise ValueError(f"policy: {type(policy).__name__} needs a closed task, not {kind}")
    tolerance = relative_tolerance if kind == "numeric" else 0.0
    return _Reader(policy, tolerance, kind in _OPEN)


def _read(
    reader: _Reader,
    filesystem: pafs.FileSystem,
    responses: str,
    justified: str | None,
    scored: str | None,
) -> Examples:
    def table(path: str | None, wanted: list[str]) -> pa.Table | None:
        if path is None:
            return None
        return pq.read_table(path, columns=wanted, filesystem=filesystem)

    answered = pq.read_table(responses, columns=reader.columns, filesystem=filesystem)
    verdicts = table(justified, reader.verdict_columns)
    return reader.examples(answered, verdicts, table(scored, SCORED))


def _select(
    policy: Policy,
    shards: Sequence[Shard],
    map: Map,
    then: Callable[[int, pa.Table], Any] | None = None,
) -> Iterator[Any]:
    # One table holds every row of an example: only shards can part them.
    ids = Distinct() if len(shards) > 1 else None
    passes = Passes(shards, map, ids)
    decision = policy.decide(passes)
    if ids is not None:
        ids.check(
            lambda low, high: passes.each(hashes_within, low, high),
            lambda hashes: passes.each(_ids_of, hashes),
        )
    if then is None:
        return iter(map(decision, shards))
    return iter(map(partial(_decided, decision, then), enumerate(shards)))


def _decided(
    decision: Decision, then: Callable[[int, pa.Table], Any], numbered: tuple[int, Shard]
) -> Any:
    number, shard = numbered
    return then(number, decision(shard))


def _ids_of(hashes: Keys, shard: Shard) -> list[str]:
    ids = shard().ids
    found = np.isin(_native.hash_ids(ids).to_numpy(), hashes)
    return ids.filter(pa.array(found)).to_pylist()
