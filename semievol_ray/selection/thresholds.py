"""Exact percentiles and quotas over any number of shards, in bounded memory.

The parts of a pass may come in any order: the threshold is the same, bit for bit. A pass that gives
more values than are kept at once only counts them, and the next one looks at a narrower window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semievol_ray.selection.examples import Floats, Mask

Keys = npt.NDArray[np.uint64]
# The keys within [low, high] of every shard.
Pass = Callable[[int, int], Iterable[Keys]]

Counts = npt.NDArray[np.int64]

# This many keys (128 MiB) are kept; with more of them, counted.
MOST_KEYS = 1 << 24
# A class's scores have so many bits, of which each look at too many keys leaves so many open.
_CLASS_WIDTH, _CLASS_BITS = 32, (20, 8, 0)
_BIN_BITS = 16
ALL = (1 << 64) - 1
_SIGN = np.int64(-1 << 63)


def rising_bits(values: Floats) -> Keys:
    """float64 as integers of the same order: −inf first, −0 just below 0, +inf last."""
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64)
    # Of a negative number all bits are flipped, of another the sign alone.
    flips = bits >> 63
    flips |= _SIGN
    flips ^= bits
    return flips.view(np.uint64)


def _float_of(key: int) -> float:
    bits = key ^ (1 << 63) if key >> 63 else key ^ ALL
    return float(np.array(bits, dtype=np.uint64).view(np.float64))


def keys_within(keys: Keys, low: int, high: int) -> Keys:
    """The keys in [low, high]."""
    if low == 0 and high == ALL:
        return keys
    return keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]


def percentile_of(passes: Pass, percentile: float) -> float:
    """The percentile of all values, interpolated linearly as numpy does; NaN without a value.

    `passes` gives the `rising_bits` of the values. Between a finite value and +inf the percentile
    is the finite one.
    """

    def ranks(n: int) -> tuple[int, int]:
        below = int((n - 1) * percentile / 100)
        return below, min(below + 1, n - 1)

    total, keys = order_statistics(passes, ranks)
    if not total:
        return float("nan")
    low, high = (_float_of(key) for key in keys)
    share = (total - 1) * percentile / 100
    share -= int(share)
    if share == 0 or low == high or np.isinf(high):
        return low
    return low + (high - low) * share


def order_statistics(
    passes: Pass, ranks: Callable[[int], tuple[int, ...]]
) -> tuple[int, tuple[int, ...]]:
    """How many keys there are, and those of the given ranks (0 is the least) when all are sorted.

    One pass where the keys fit into `MOST_KEYS`; otherwise each pass narrows a window 65536-fold,
    so four at most for each rank.
    """
    total, kept, counts = _look(passes, 0, ALL)
    if not total:
        return 0, ()
    wanted = ranks(total)
    if kept is not None:
        return total, tuple(int(key) for key in np.partition(kept, wanted)[list(wanted)])
    return total, tuple(_narrow(passes, counts, rank) for rank in wanted)


def _narrow(passes: Pass, counts: npt.NDArray[np.int64], rank: int) -> int:
    low, width = 0, 64
    while True:
        ends = np.cumsum(counts)
        bin_ = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[bin_ - 1]) if bin_ else 0
        width -= _BIN_BITS
        low += bin_ << width
        if width == 0:
            return low
        _, kept, counts = _look(passes, low, low + (1 << width) - 1)
        if kept is not None:
            return int(np.partition(kept, rank)[rank])


def _look(passes: Pass, low: int, high: int) -> tuple[int, Keys | None, npt.NDArray[np.int64]]:
    """How many keys a window has, and the keys if they are few, else their counts in 65536 bins."""
    shift = np.uint64((high - low + 1).bit_length() - 1 - _BIN_BITS)
    counts = np.zeros(1 << _BIN_BITS, dtype=np.int64)
    kept = [np.empty(0, np.uint64)]
    total = 0
    for keys in passes(low, high):
        total += len(keys)
        kept.append(keys)
        if total > MOST_KEYS:
            for part in kept:
                bins = (part - np.uint64(low)) >> shift
                counts += np.bincount(bins.astype(np.int64), minlength=1 << _BIN_BITS)
            kept = []
    return total, np.concatenate(kept) if total <= MOST_KEYS else None, counts


@dataclass(frozen=True)
class Windows:
    """What is looked at of the keys: those that begin as one of `starts`, but for `width` bits."""

    starts: Keys
    width: int

    def of(self, keys: Keys) -> Keys:
        """The keys that lie in a window."""
        return keys[np.isin(keys >> np.uint64(self.width), self.starts)]


# The keys of every shard that lie in some windows; None: all of them.
ClassPass = Callable[[Windows | None], Iterable[Keys]]


def class_keys(predicted: npt.NDArray[np.int32], scores: Floats) -> Keys:
    """Keys that sort by class, best first; scores are probabilities of float32 precision."""
    rising = scores.astype(np.float32).view(np.uint32)
    return (predicted.astype(np.uint64) << np.uint64(32)) | ~rising


def quotas(passes: ClassPass, percentile: float) -> tuple[Keys, Counts, Counts]:
    """For each class that occurs its last key within the quota, how many of that very key are
    within, and how many of it there are.

    Of the n examples of a class the best `floor((n - 1) * percentile / 100) + 1` are within: as
    many as lie at or below the percentile of n different numbers. One pass where the keys fit into
    `MOST_KEYS`, else three at most: each finds for every class the narrower window of its last key.
    """
    windows: Windows | None = None
    rank = np.empty(0, np.int64)
    for bits in _CLASS_BITS:
        values, counts, left = _look_by_class(passes(windows), bits)
        if not len(values):
            return values, counts, counts
        width = _CLASS_WIDTH if windows is None else windows.width
        _, first = np.unique(values >> np.uint64(width - left), return_index=True)
        if windows is None:
            n = np.add.reduceat(counts, first)
            rank = np.floor((n - 1) * percentile / 100).astype(np.int64)
        ends = np.cumsum(counts)
        before = ends[first] - counts[first]
        place = np.searchsorted(ends, before + rank, side="right")
        rank -= ends[place] - counts[place] - before
        if not left:
            return values[place], rank + 1, counts[place]
        windows = Windows(values[place], left)
    raise AssertionError("the last look leaves no bit")


def _look_by_class(parts: Iterable[Keys], bits: int) -> tuple[Keys, Counts, int]:
    """Each key that occurs, sorted, how often, and 0; of too many, the same without so many bits,
    and how many these are."""
    values, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    kept: list[Keys] = [values]
    total = held = 0
    for keys in parts:
        total, held = total + len(keys), held + len(keys)
        kept.append(keys)
        if total > MOST_KEYS and held > MOST_KEYS // 4:  # not at every shard: it takes its time
            values, counts = _added(values, counts, np.concatenate(kept) >> np.uint64(bits))
            kept, held = [], 0
    if total <= MOST_KEYS:
        return *np.unique(np.concatenate(kept), return_counts=True), 0
    if kept:
        values, counts = _added(values, counts, np.concatenate(kept) >> np.uint64(bits))
    return values, counts, bits


def _added(values: Keys, counts: Counts, more: Keys) -> tuple[Keys, Counts]:
    """Sorted values and how often each is there, with some more."""
    new, times = np.unique(more, return_counts=True)
    found, places = np.unique(np.concatenate([values, new]), return_inverse=True)
    return found, np.bincount(places, np.concatenate([counts, times])).astype(np.int64)


def last_ties(
    ties: Callable[[], Iterable[tuple[Keys, Keys]]],
    last: Keys,
    room: npt.NDArray[np.int64],
    among: npt.NDArray[np.int64],
) -> Keys:
    """For each class the largest tie-breaker within its quota; `ties` gives the (key, tie-breaker)
    of the examples at `last`, and is asked only where a quota parts such examples."""
    limit = np.full(len(last), ALL, dtype=np.uint64)
    split = room < among
    if split.any():
        parts = list(ties())
        keys = np.concatenate([key for key, _ in parts])
        breakers = np.concatenate([tie for _, tie in parts])
        for i in np.flatnonzero(split):
            mine = np.sort(breakers[keys == last[i]])
            limit[i] = mine[room[i] - 1]
    return limit


def at_last(keys: Keys, last: Keys) -> Mask:
    """Which keys are the last one of their class."""
    return _limits(keys, last) == keys


def within(keys: Keys, ties: Keys, last: Keys, limit: Keys) -> Mask:
    """Which keys lie before the last one of their class, or at it with a tie-breaker within."""
    ends = _limits(keys, last)
    place = np.searchsorted(last >> np.uint64(32), keys >> np.uint64(32))
    return (keys < ends) | ((keys == ends) & (ties <= limit[place]))


def _limits(keys: Keys, last: Keys) -> Keys:
    return last[np.searchsorted(last >> np.uint64(32), keys >> np.uint64(32))]


def top_by_budget(
    scores: npt.ArrayLike, ties: npt.ArrayLike, budget: float, costs: npt.ArrayLike | None = None
) -> Mask:
    """The best rows whose costs add up to no more than `budget`: a mask.

    Rows are taken by falling score, equal ones by rising tie-breaker (`hash_ids`), until the next
    one would not fit; NaN scores are never taken. A row costs 1 where there are no `costs`.
    Raises ValueError for columns of different lengths, and with the row for a cost that is negative
    or NaN.
    """
    score, breakers = np.asarray(scores, dtype=np.float64), np.asarray(ties)
    cost = np.ones(len(score)) if costs is None else np.asarray(costs, dtype=np.float64)
    for name, column in (("ties", breakers), ("costs", cost)):
        if len(column) != len(score):
            raise ValueError(f"{name}: {len(column)} of them for {len(score)} scores")
    if np.isnan(budget):
        raise ValueError("budget: got NaN, wanted a number")
    # NaN is no number of either sign.
    wrong = ~(cost >= 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"costs: row {row}: {cost[row]} is not a cost (0 or more)")
    order = np.lexsort((breakers, -score))
    order = order[~np.isnan(score[order])]
    taken = np.zeros(len(score), dtype=bool)
    taken[order[np.cumsum(cost[order]) <= budget]] = True
    return taken
