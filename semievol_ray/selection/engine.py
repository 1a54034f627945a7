"""`select` and `select_shards`: the same rows from one table or from any number of shards.

Every pass maps a function over the shards, and what comes back of a shard is small; so memory is
bounded by the largest shard, and a Ray-backed map spreads the work. A shard is a callable that
gives its `Examples`, read anew at each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from semievol_ray import _native
from semievol_ray.config import SelectionConfig
from semievol_ray.schema import SELECTION
from semievol_ray.selection.distinct import Distinct
from semievol_ray.selection.examples import SCORED, Examples, Floats, columns, examples_of
from semievol_ray.selection.policies import (
    Judged,
    judge_balanced,
    judge_paper,
    judge_upstream,
    table_of,
)
from semievol_ray.selection.tables import Table, as_table
from semievol_ray.selection.thresholds import (
    ALL,
    Keys,
    at_last,
    class_keys,
    keys_within,
    last_ties,
    percentile_of,
    quotas,
    rising_bits,
    within,
)

Shard = Callable[[], Examples]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

# The alignment looks at this many probabilities at most: all the rows of most runs, and a sample
# by the hash of the id, the same for any partition, of larger ones.
ALIGNMENT_VALUES = 1 << 24


def select(
    responses: Table,
    justified: Table | None,
    scored: Table | None = None,
    *,
    config: SelectionConfig,
    percentile: float,
    kind: str,
    relative_tolerance: float = 0.0,
    classes: Sequence[str] | None = None,
    prior: Sequence[float] | None = None,
    labeled_entropies: pa.Array | Sequence[float] | None = None,
) -> pa.Table:
    """The SELECTION table of a table of responses, sorted by example id.

    `responses` has the columns example_id, answer, tokens and token_logprobs of the RESPONSE
    schema (answer_text too for "numeric" and "text", option_logprobs for "balanced"), several rows
    for each example; `justified` the same with at most one row for each example; `scored`, in the
    SCORE schema, the winners whose entropies are not those of their votes. Tables of pyarrow,
    polars, pandas and duckdb will do, and mappings from names to columns; a null in `tokens` is no
    token. `percentile` is the share to keep, in percent. `kind` and `relative_tolerance` say when
    two votes are one. `classes` are the canonical answers in the order of option_logprobs and
    `prior` their shares among the labels: both for the policy "balanced". `labeled_entropies` are
    those that the percentile is taken of for `percentile_over: labeled`.

    Policies (`config.policy`):

    - "paper": the pseudo-answer is the justified one, or the consensus where nothing was justified;
      selected where its entropy H <= tau, the percentile of H over all that have one (Eq. 7).
    - "upstream": unanimous answers are selected; of the justified ones those with H < tau, the
      percentile of H over the justified ones.
    - "balanced": the mean of the collaborators' distributions over the options, aligned to the
      prior (`config.align_prior`); its most probable option is the pseudo-answer, and the best
      `percentile` percent of each predicted class are selected, ties by a hash of the id.

    Raises ValueError for an argument that the policy lacks, and for a value that cannot be used,
    with its row.
    """
    job = _job(config, percentile, kind, relative_tolerance, classes, prior, labeled_entropies)
    examples = job.examples(
        as_table("responses", responses, columns(options=job.balanced, texts=job.texts)),
        None
        if justified is None
        else as_table("justified", justified, columns(options=False, texts=job.texts)),
        None if scored is None else as_table("scored", scored, SCORED),
    )
    (table,) = _select(job, [lambda: examples], map)
    return table


def select_shards(
    responses: Sequence[str],
    justified: Sequence[str | None] | None,
    scored: Sequence[str] | None = None,
    *,
    filesystem: pafs.FileSystem,
    config: SelectionConfig,
    percentile: float,
    kind: str,
    relative_tolerance: float = 0.0,
    classes: Sequence[str] | None = None,
    prior: Sequence[float] | None = None,
    labeled_entropies: pa.Array | Sequence[float] | None = None,
    map: Map = map,
) -> Iterator[pa.Table]:
    """`select` over Parquet shards: one SELECTION table for each, in their order, as they are done.

    All rows of an example lie in one shard (ValueError with its id where they do not), and the
    i-th justified shard goes with the i-th shard of responses (None where there is none), as the
    i-th scored one does.
    `map(function, shards)` applies a picklable function to each shard, in order; give one that runs
    Ray tasks to spread the work. Together the tables hold the rows of `select` over all shards as
    one table, whatever their number and order.
    """
    job = _job(config, percentile, kind, relative_tolerance, classes, prior, labeled_entropies)
    if justified is not None and len(justified) != len(responses):
        raise ValueError(
            f"{len(responses)} shards of responses, but {len(justified)} justified ones"
        )
    nothing = [None] * len(responses)
    parts = zip(responses, justified or nothing, scored or nothing, strict=True)
    shards = [partial(_read, job, filesystem, *part) for part in parts]
    return _select(job, shards, map)


@dataclass(frozen=True)
class _Job:
    """Everything that a pass over a shard needs to know."""

    config: SelectionConfig
    percentile: float
    tolerance: float
    classes: tuple[str, ...] | None
    prior: tuple[float, ...] | None
    labeled_entropies: Floats | None
    # Open answers: their texts as written, beside what votes are counted by.
    texts: bool

    @property
    def balanced(self) -> bool:
        return self.config.policy == "balanced"

    def examples(
        self, responses: pa.Table, justified: pa.Table | None, scored: pa.Table | None
    ) -> Examples:
        classes = len(self.classes) if self.balanced and self.classes else None
        return examples_of(
            responses,
            justified,
            scored,
            tolerance=self.tolerance,
            classes=classes,
            texts=self.texts,
        )


def _job(
    config: SelectionConfig,
    percentile: float,
    kind: str,
    relative_tolerance: float,
    classes: Sequence[str] | None,
    prior: Sequence[float] | None,
    labeled_entropies: pa.Array | Sequence[float] | None,
) -> _Job:
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile: {percentile} does not lie in (0, 100]")
    if kind not in ("multiple_choice", "label", "numeric", "text"):
        raise ValueError(f"kind: unknown kind {kind!r}")
    labeled = None
    if config.policy == "balanced":
        if kind not in ("multiple_choice", "label") or not classes:
            raise ValueError("policy balanced needs a closed task with its classes")
        if config.align_prior and prior is None:
            raise ValueError("align_prior needs the prior of the classes")
        if prior is not None and len(prior) != len(classes):
            raise ValueError(f"{len(classes)} classes, but a prior of {len(prior)}")
    elif config.percentile_over == "labeled":
        if labeled_entropies is None:
            raise ValueError("percentile_over labeled needs labeled_entropies")
        labeled = np.asarray(labeled_entropies, dtype=np.float64)
        labeled = labeled[~np.isnan(labeled)]
        if not len(labeled):
            raise ValueError("labeled_entropies: none of them is a number, so no threshold follows")
    return _Job(
        config,
        percentile,
        relative_tolerance if kind == "numeric" else 0.0,
        None if classes is None else tuple(classes),
        None if prior is None else tuple(prior),
        labeled,
        kind in ("numeric", "text"),
    )


def _read(
    job: _Job,
    filesystem: pafs.FileSystem,
    responses: str,
    justified: str | None,
    scored: str | None,
) -> Examples:
    def table(path: str | None, wanted: list[str]) -> pa.Table | None:
        if path is None:
            return None
        return pq.read_table(path, columns=wanted, filesystem=filesystem)

    answered = pq.read_table(
        responses,
        columns=columns(options=job.balanced, texts=job.texts),
        filesystem=filesystem,
    )
    verdicts = table(justified, columns(options=False, texts=job.texts))
    return job.examples(answered, verdicts, table(scored, SCORED))


def _select(job: _Job, shards: Sequence[Shard], map: Map) -> Iterator[pa.Table]:
    # One table holds every row of an example: only shards can part them.
    ids = Distinct() if len(shards) > 1 else None
    decide = _balanced_decision if job.config.policy == "balanced" else _threshold_decision
    last_pass = decide(job, shards, map, ids)
    if ids is not None:
        ids.check(
            lambda low, high: map(partial(_hashes, low, high), shards),
            lambda hashes: map(partial(_ids_of, hashes), shards),
        )
    return iter(map(last_pass, shards))


Decision = Callable[[Shard], pa.Table]


def _balanced_decision(
    job: _Job, shards: Sequence[Shard], map: Map, ids: Distinct | None
) -> Decision:
    assert job.classes is not None
    weights = [1.0] * len(job.classes)
    if job.config.align_prior:
        weights = _alignment(job, map(partial(_sample, job), shards))
    keys = _noting(ids, map(partial(_class_keys, job, weights, ids is not None), shards))
    last, room, among = quotas(keys, job.percentile)
    limit = last_ties(lambda: map(partial(_ties, job, weights, last), shards), last, room, among)
    return partial(_within_quota, job, weights, last, limit)


def _threshold_decision(
    job: _Job, shards: Sequence[Shard], map: Map, ids: Distinct | None
) -> Decision:
    if job.labeled_entropies is not None:
        labeled = rising_bits(job.labeled_entropies)
        threshold = percentile_of(lambda *window: [keys_within(labeled, *window)], job.percentile)
        if ids is not None:
            for hashes in map(partial(_hashes, 0, ALL), shards):
                ids.note(hashes)
    else:
        noted = ids is not None
        threshold = percentile_of(
            lambda low, high: _noting(ids, map(partial(_entropies, job, low, high, noted), shards)),
            job.percentile,
        )
    return partial(_below_threshold, job, threshold)


def _noting(ids: Distinct | None, parts: Iterable[tuple[Keys, Keys]]) -> Iterable[Keys]:
    return ids.noting(parts) if ids is not None else (keys for keys, _ in parts)


def _hashes(low: int, high: int, shard: Shard) -> Keys:
    return keys_within(_native.hash_ids(shard().ids).to_numpy(), low, high)


def _ids_of(hashes: Keys, shard: Shard) -> list[str]:
    ids = shard().ids
    found = np.isin(_native.hash_ids(ids).to_numpy(), hashes)
    return ids.filter(pa.array(found)).to_pylist()


def _judge(job: _Job, examples: Examples) -> Judged:
    return (judge_paper if job.config.policy == "paper" else judge_upstream)(examples)


def _entropies(job: _Job, low: int, high: int, noted: bool, shard: Shard) -> tuple[Keys, Keys]:
    """The keys within a window, and on the first pass the hashes of the ids."""
    examples = shard()
    judged = _judge(job, examples)
    keys = keys_within(rising_bits(judged.entropy[judged.ranked]), low, high)
    first = noted and (low, high) == (0, ALL)
    return keys, _native.hash_ids(examples.ids).to_numpy() if first else np.empty(0, np.uint64)


def _below_threshold(job: _Job, threshold: float, shard: Shard) -> pa.Table:
    examples = shard()
    judged = _judge(job, examples)
    # Eq. 7 keeps H <= tau; the released code keeps H < tau.
    compare = np.less_equal if job.config.policy == "paper" else np.less
    return table_of(examples, judged, compare(judged.entropy, threshold), "above_threshold")


_Sample = tuple[npt.NDArray[np.uint64], pa.ListArray]


def _sample(job: _Job, shard: Shard) -> _Sample:
    examples = shard()
    distribution = examples.distribution
    assert distribution is not None
    known = distribution.is_valid()
    hashes = _native.hash_ids(examples.ids).filter(known).to_numpy()
    return _smallest(job, [(hashes, distribution.filter(known))])


def _smallest(job: _Job, samples: Iterable[_Sample]) -> _Sample:
    """The rows of the smallest hashes, in the order of these."""
    assert job.classes is not None
    most = max(ALIGNMENT_VALUES // len(job.classes), 1)
    kept: _Sample = (np.empty(0, np.uint64), pa.array([], SELECTION.field("distribution").type))
    for hashes, rows in samples:
        both = np.concatenate([kept[0], hashes])
        order = np.argsort(both, kind="stable")[:most]
        kept = both[order], pa.concat_arrays([kept[1], rows]).take(pa.array(order))
    return kept


def _alignment(job: _Job, samples: Iterable[_Sample]) -> list[float]:
    assert job.prior is not None
    return _native.alignment_weights(_smallest(job, samples)[1], job.prior)


def _balanced(job: _Job, weights: list[float], shard: Shard) -> tuple[Examples, Judged, Keys, Keys]:
    """The examples, their judgement, and of the ranked ones the keys and tie-breakers."""
    assert job.classes is not None
    examples = shard()
    judged = judge_balanced(examples, job.classes, weights)
    assert judged.predicted is not None
    ranked = judged.ranked
    keys = class_keys(judged.predicted[ranked], judged.score[ranked])
    return examples, judged, keys, _native.hash_ids(examples.ids).to_numpy()[ranked]


def _class_keys(job: _Job, weights: list[float], noted: bool, shard: Shard) -> tuple[Keys, Keys]:
    examples, _, keys, _ = _balanced(job, weights, shard)
    hashes = _native.hash_ids(examples.ids).to_numpy() if noted else np.empty(0, np.uint64)
    return keys, hashes


def _ties(job: _Job, weights: list[float], last: Keys, shard: Shard) -> tuple[Keys, Keys]:
    _, _, keys, ties = _balanced(job, weights, shard)
    here = at_last(keys, last)
    return keys[here], ties[here]


def _within_quota(
    job: _Job, weights: list[float], last: Keys, limit: Keys, shard: Shard
) -> pa.Table:
    examples, judged, keys, ties = _balanced(job, weights, shard)
    trusted = np.zeros(len(examples), dtype=bool)
    trusted[judged.ranked] = within(keys, ties, last, limit)
    return table_of(examples, judged, trusted, "outside_quota")
