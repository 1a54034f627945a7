from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.selection import thresholds, top_by_budget

FINITE = st.floats(-1e300, 1e300)


def passes(parts):
    keys = [thresholds.rising_bits(np.array(part, dtype=float)) for part in parts]
    return lambda low, high: (thresholds.keys_within(k, low, high) for k in keys)


@given(
    st.lists(st.lists(FINITE, max_size=9), max_size=4),
    st.floats(0.001, 100),
    st.sampled_from([0, 3, 1 << 24]),
)
def test_the_percentile_is_numpy_s_however_little_is_kept(parts, percentile, most_keys):
    values = [value for part in parts for value in part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "MOST_KEYS", most_keys)
        got = thresholds.percentile_of(passes(parts), percentile)
    if not values:
        assert math.isnan(got)
    else:
        want = np.percentile(values, percentile)
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9 * max(map(abs, values)))


def test_infinity_is_above_every_threshold_that_a_finite_value_has():
    parts = [[1.0, math.inf], [2.0]]
    assert thresholds.percentile_of(passes(parts), 75) == 2.0
    assert thresholds.percentile_of(passes(parts), 100) == math.inf


@given(st.lists(st.floats(allow_nan=False)))
def test_rising_bits_keep_the_order(values):
    keys = thresholds.rising_bits(np.array(sorted(values), dtype=float))
    assert (np.diff(keys.astype(object)) >= 0).all()


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    ),
    st.floats(0.1, 100),
    st.sampled_from([0, 3, 1 << 24]),
)
def test_quotas_keep_the_best_of_each_class_however_little_is_kept(rows, percentile, most_keys):
    predicted, scores, ties = (np.array(column) for column in zip(*rows, strict=True))
    # Tie-breakers are hashes: no two are equal.
    ties = ties.astype(np.uint64) * np.uint64(1000) + np.arange(len(rows), dtype=np.uint64)
    keys = thresholds.class_keys(predicted.astype(np.int32), scores)
    half = len(rows) // 2

    def look(windows):
        parts = [keys[half:], keys[:half]]
        return parts if windows is None else map(windows.of, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "MOST_KEYS", most_keys)
        last, room, among = thresholds.quotas(look, percentile)
    here = thresholds.at_last(keys, last)
    limit = thresholds.last_ties(lambda: [(keys[here], ties[here])], last, room, among)
    got = thresholds.within(keys, ties, last, limit)
    for c in set(predicted):
        mine = np.flatnonzero(predicted == c)
        best = sorted(mine, key=lambda i: (-scores[i], ties[i]))
        quota = math.floor((len(mine) - 1) * percentile / 100) + 1
        assert set(best[:quota]) == set(mine[got[mine]])


def test_quotas_look_three_times_at_most_and_keep_what_they_may(monkeypatch):
    monkeypatch.setattr(thresholds, "MOST_KEYS", 4_000)
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 7, 100_000)
    # As sure models are: nearly all in the last thousandth.
    keys = thresholds.class_keys(predicted.astype(np.int32), 1 - rng.random(100_000) ** 4 / 1000)
    seen = []

    def look(windows):
        parts = np.array_split(keys, 50) if windows is None else map(windows.of, parts_of(windows))
        seen.append(windows)
        return parts

    def parts_of(windows):
        return np.array_split(keys, 50)

    last, room, among = thresholds.quotas(look, 60)
    monkeypatch.setattr(thresholds, "MOST_KEYS", 1 << 24)
    want = thresholds.quotas(lambda _: [keys], 60)
    assert 1 < len(seen) <= 3
    for got, known in zip((last, room, among), want, strict=True):
        assert got.tolist() == known.tolist()
    none = thresholds.quotas(lambda _: [], 60)
    assert [len(column) for column in none] == [0, 0, 0]


def test_a_budget_takes_the_best_that_fit():
    scores = [0.1, 0.9, math.nan, 0.9, 0.5]
    assert top_by_budget(scores, [5, 4, 3, 2, 1], 2).tolist() == [False, True, False, True, False]
    got = top_by_budget(scores, [5, 4, 3, 2, 1], 8, costs=[1, 3, 1, 3, 5])
    assert got.tolist() == [False, True, False, True, False]
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=r"costs: row 1: (-1\.0|nan) is not a cost"):
            top_by_budget([1, 2], [0, 1], 1, costs=[1, bad])
    with pytest.raises(ValueError, match="costs: 1 of them for 2 scores"):
        top_by_budget([1, 2], [0, 1], 1, costs=[1])
    with pytest.raises(ValueError, match="ties: 3 of them for 2 scores"):
        top_by_budget([1, 2], [0, 1, 2], 1)
    with pytest.raises(ValueError, match="budget"):
        top_by_budget([1, 2], [0, 1], math.nan)
