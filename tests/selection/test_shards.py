"""The same rows from one table and from any number of shards; against a naive reference."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.schema import SELECTION
from semievol_ray.selection import select, select_shards, thresholds
from semievol_ray.selection.policies import Paper
from tests.selection import reference
from tests.selection.responses import (
    LETTERS,
    by_id,
    many_examples,
    policy_of,
    response,
    run,
    settings_of,
    table,
)

# float32 values, so that the reference sees what Arrow holds.
logprobs = st.none() | st.lists(st.floats(-9, 0, width=32) | st.just(-math.inf), max_size=5)

tokens = st.none() | st.integers(0, 2)

answers = st.none() | st.sampled_from(LETTERS)


@st.composite
def shards(draw):
    """Disjoint sets of examples: rows of each in any order, some of them justified."""
    parts = []
    names = draw(st.lists(st.text("ab0é", max_size=3), min_size=1, max_size=8, unique=True))
    n_parts = draw(st.integers(1, 3))
    for part in range(n_parts):
        rows, justified = [], []
        for name in names[part::n_parts]:
            for _ in range(draw(st.integers(1, 4))):
                rows.append(
                    response(name, draw(answers), draw(logprobs)) | {"tokens": draw(tokens)}
                )
            if draw(st.booleans()):
                row = response(name, draw(answers), draw(logprobs)) | {"tokens": draw(tokens)}
                justified.append(row)
        parts.append((draw(st.permutations(rows)), justified))
    return parts


@settings(deadline=None, max_examples=150)
@given(
    parts=shards(),
    policy=st.sampled_from(["paper", "upstream"]),
    percentile=st.sampled_from([1.0, 30.0, 50.0, 90.0, 100.0]),
    labeled=st.none() | st.lists(st.floats(0, 9), min_size=1, max_size=5),
)
def test_rows_are_those_of_the_naive_reference(parts, policy, percentile, labeled):
    rows = [row for part, _ in parts for row in part]
    justified = [row for _, part in parts for row in part]
    more = {} if labeled is None else {"labeled_entropies": labeled}
    got = run(rows, justified, policy=policy, percentile=percentile, **more)
    assert got.schema == SELECTION
    got.validate(full=True)
    want = reference.select(rows, justified, policy=policy, percentile=percentile, labeled=labeled)
    # Part by part it is the same, whatever else a shard holds.
    with tempfile.TemporaryDirectory() as folder:
        paths = [[f"{folder}/{kind}{i}.parquet" for i in range(len(parts))] for kind in "rj"]
        for i, part in enumerate(parts):
            for of, path in zip(part, paths, strict=True):
                pq.write_table(table(of), path[i])
        shards = select_shards(
            *paths,
            filesystem=pafs.LocalFileSystem(),
            policy=policy_of(policy, percentile=percentile, labeled_entropies=labeled),
            kind="multiple_choice",
        )
        check_merged(shards, got)
    assert got["example_id"].to_pylist() == sorted(want, key=str.encode)
    for name, row in by_id(got).items():
        assert row["selected"] == (row["reason"] == "selected")
        for key, value in want[name].items():
            if isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=1e-6, abs=1e-12), (name, key)
            else:
                assert row[key] == value, (name, key)


def write_shards(folder, rows, justified, order):
    """The paths of shards that hold every len(order)-th example, in that order."""
    paths = []
    for shard in order:
        paths.append([str(folder / f"{kind}{shard}.parquet") for kind in "rj"])
        for of, path in zip((rows, justified), paths[-1], strict=True):
            mine = [row for row in of if int(row["example_id"][1:]) % len(order) == shard]
            pq.write_table(table(mine), path)
    return [r for r, _ in paths], [j for _, j in paths]


def check_merged(parts, whole):
    merged = pa.concat_tables(list(parts)).sort_by("example_id")
    assert merged.combine_chunks().equals(whole.combine_chunks())


@pytest.mark.parametrize("policy", ["paper", "upstream", "balanced"])
def test_shards_in_any_number_and_order_give_the_bytes_of_one_table(tmp_path, policy):
    rows, justified = many_examples()
    whole = select(table(rows), table(justified), **settings_of(policy))
    assert 0 < whole["selected"].to_numpy().sum() < 400
    for n_shards in (1, 3, 7):
        order = np.random.default_rng(n_shards).permutation(n_shards)
        paths = write_shards(tmp_path, rows, justified, order)
        parts = select_shards(
            *paths,
            filesystem=pafs.LocalFileSystem(),
            map=lambda f, shards: [f(s) for s in shards],
            **settings_of(policy),
        )
        check_merged(parts, whole)


@pytest.mark.e2e
@pytest.mark.parametrize("policy", ["paper", "upstream", "balanced"])
def test_ray_tasks_over_shards_give_the_bytes_of_one_table(tmp_path, ray_session, policy):
    from semievol_ray.config import RayConfig
    from semievol_ray.ray_session import shard_map

    rows, justified = many_examples()
    paths = write_shards(tmp_path, rows, justified, range(11))
    parts = select_shards(
        *paths,
        filesystem=pafs.LocalFileSystem(),
        map=shard_map(RayConfig(), 11),
        **settings_of(policy),
    )
    check_merged(parts, select(table(rows), table(justified), **settings_of(policy)))


def test_an_example_in_two_shards_is_refused(tmp_path):
    rows = [[response("a"), response("b")], [response("c")], [response("b"), response("d")]]
    paths = [str(tmp_path / f"{i}.parquet") for i in range(3)]
    for part, path in zip(rows, paths, strict=True):
        pq.write_table(table(part), path)
    for policy in ("paper", "upstream", "balanced"):
        for most_keys in (0, 1 << 24):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(thresholds, "MOST_KEYS", most_keys)
                if policy == "balanced":
                    for part, path in zip(rows, paths, strict=True):
                        options = [row | {"option_logprobs": [-1.0] * 3} for row in part]
                        pq.write_table(table(options), path)
                with pytest.raises(ValueError, match="'b' lies in the shards 0 and 2"):
                    more = settings_of(policy)
                    select_shards(paths, None, filesystem=pafs.LocalFileSystem(), **more)
    more = settings_of("paper") | {"policy": Paper(labeled_entropies=(1.0,))}
    with pytest.raises(ValueError, match="'b' lies in the shards 0 and 2"):
        select_shards(paths, None, filesystem=pafs.LocalFileSystem(), **more)
    assert len(list(select_shards(paths[:2], None, filesystem=pafs.LocalFileSystem(), **more))) == 2
