from __future__ import annotations

import math
import tempfile
import warnings
from dataclasses import fields

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.schema import RESPONSE, SELECTION
from semievol_ray.selection import select, select_shards, thresholds
from semievol_ray.selection.policies import POLICIES, Paper, Upstream
from tests.selection import reference

LETTERS = ["A", "B", "C"]


def response(example_id, answer="A", logprobs=(-1.0,), options=None, tokens=None, written=None):
    return {
        "example_id": example_id,
        "collaborator": "warm-0shot",
        "text": answer,
        "answer": answer,
        "answer_text": answer if written is None else written,
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "tokens": (1 if logprobs is None else len(logprobs)) if tokens is None else tokens,
        "token_logprobs": logprobs if logprobs is None else list(logprobs),
        "option_logprobs": options,
        "seed": 0,
    }


def table(rows):
    # Other people's tables may hold nulls where ours never do.
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in RESPONSE]))


def run(rows, justified=(), *, policy="paper", percentile=50.0, kind="multiple_choice", **more):
    tolerance = more.pop("relative_tolerance", 0.0)
    return select(
        table(rows),
        table(list(justified)) if justified else None,
        policy=policy_of(policy, percentile=percentile, **more),
        kind=kind,
        relative_tolerance=tolerance,
    )


def policy_of(name, **settings):
    """A policy by its name; each takes what it knows of the settings."""
    chosen = POLICIES[name]
    known = {field.name for field in fields(chosen)}
    return chosen(**{key: value for key, value in settings.items() if key in known})


def by_id(selection):
    return {row["example_id"]: row for row in selection.to_pylist()}


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


def many_examples():
    """400 examples with ties, and justifications of half of them."""
    rng = np.random.default_rng(0)
    rows, justified = [], []
    for i in range(400):
        size = int(rng.integers(2, 4))
        for _ in range(3):
            # Rounded, so that ties are common.
            options = np.log(rng.dirichlet(np.ones(size))).round(0).tolist()
            answer = None if rng.random() < 0.1 else LETTERS[int(rng.integers(size))]
            rows.append(response(f"e{i:03}", answer, [-float(rng.integers(9))], options))
        if rng.random() < 0.5:
            justified.append(response(f"e{i:03}", "A", [-float(rng.integers(9))]))
    return rows, justified


def write_shards(folder, rows, justified, order):
    """The paths of shards that hold every len(order)-th example, in that order."""
    paths = []
    for shard in order:
        paths.append([str(folder / f"{kind}{shard}.parquet") for kind in "rj"])
        for of, path in zip((rows, justified), paths[-1], strict=True):
            mine = [row for row in of if int(row["example_id"][1:]) % len(order) == shard]
            pq.write_table(table(mine), path)
    return [r for r, _ in paths], [j for _, j in paths]


def settings_of(policy):
    chosen = policy_of(policy, percentile=40.0, classes=LETTERS, prior=(0.2, 0.3, 0.5))
    return {"policy": chosen, "kind": "multiple_choice"}


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


def test_unparsed_and_silent_examples_are_never_selected():
    got = by_id(
        run(
            [
                response("silent", None, None, tokens=0),
                response("mute", None, [-0.1]),
                response("blind", "A", None),
                response("sure", "A", [-0.1]),
                response("unsure", "B", [-5.0]),
            ]
        )
    )
    assert {name: row["reason"] for name, row in got.items()} == {
        "silent": "no_response",
        "mute": "unparsed",
        "blind": "unscored",
        "sure": "selected",
        "unsure": "above_threshold",
    }
    assert got["mute"]["n_valid"] == 0 and got["mute"]["entropy"] is None


def test_upstream_keeps_every_unanimous_example_and_counts_only_the_justified():
    rows = [response("u", "A", [-9.0]), response("u", "A", [-1.0])]
    for name in "abcd":
        rows += [response(name, "A"), response(name, "B")]
    justified = [response(name, "A", [-float(n)]) for n, name in enumerate("abc", 1)]
    got = by_id(run(rows, justified, policy="upstream", percentile=50))
    assert got["u"]["selected"] and got["u"]["entropy"] == 9.0
    assert got["a"]["selected"]
    # Below the percentile, not at it.
    assert got["b"]["reason"] == got["c"]["reason"] == "above_threshold"
    assert got["d"]["reason"] == "unjustified" and got["d"]["pseudo_answer"] is None


def test_balanced_aligns_to_the_prior_and_keeps_a_quota_of_each_class():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(600):
        # A model that likes A too much.
        p = rng.dirichlet([4, 1, 1])
        rows += [response(f"{i:03}", "A", [-1.0], np.log(p).tolist()) for _ in range(2)]
    prior = [0.2, 0.3, 0.5]
    got = run(rows, policy="balanced", percentile=50, classes=LETTERS, prior=prior)
    p = np.array(got["distribution"].to_pylist())
    assert p.mean(axis=0) == pytest.approx(prior, abs=1e-5)
    assert p.max(axis=1) == pytest.approx(got["score"].to_numpy())
    answers = np.array(got["pseudo_answer"].to_pylist())
    assert (answers == np.array(LETTERS)[p.argmax(axis=1)]).all()
    kept = got["selected"].to_numpy()
    score = got["score"].to_numpy()
    for letter in LETTERS:
        mine = answers == letter
        assert kept[mine].sum() == math.floor((mine.sum() - 1) / 2) + 1
        assert score[mine & kept].min() >= score[mine & ~kept].max()
    entropy = got["entropy"].to_pylist()
    assert all((e == 1.0) == (a == "A") for e, a in zip(entropy, answers, strict=True))


def test_balanced_needs_a_distribution():
    rows = [
        response("a", "A", [-1.0], [-0.1, -2.0]),
        response("a", "A", [-1.0], None),
        response("b", "A", [-1.0], None),
        response("c", None, None, None, tokens=0),
    ]
    got = by_id(run(rows, policy="balanced", classes=LETTERS[:2]))
    assert [got[name]["reason"] for name in "abc"] == ["selected", "no_distribution", "no_response"]
    assert got["b"]["pseudo_answer"] is None and got["b"]["distribution"] is None


def test_what_is_trained_on_is_the_surest_response_of_the_winners_as_it_is_written():
    rows = [
        response("a", "united states", [-0.9], written="the United States"),
        response("a", "united states", [-0.2], written="The United States."),
        response("a", "canada", [-0.1], written="Canada"),
        response("b", "0.141", [-0.3], written="14.1%"),
        response("b", None, [-0.1]),
    ]
    justified = [response("b", "0.142", [-0.4], written="14.2 %")]
    got = by_id(run(rows, kind="text"))
    assert got["a"]["pseudo_answer"] == "united states"
    assert got["a"]["pseudo_answer_text"] == "The United States."
    assert got["b"]["pseudo_answer_text"] == "14.1%"
    got = by_id(run(rows, justified, kind="numeric"))
    assert (got["b"]["pseudo_answer"], got["b"]["pseudo_answer_text"]) == ("0.142", "14.2 %")
    got = by_id(run(rows, justified, kind="numeric", policy="upstream"))
    assert got["a"]["pseudo_answer_text"] is None  # divided, and nothing decided
    assert got["b"]["pseudo_answer_text"] == "14.1%"  # unanimous: it stands


def test_a_scored_winner_has_the_warm_models_entropy():
    rows = [response("a", "B", [-0.5]), response("b", "C", [-0.1]), response("c", "A", [-0.2])]
    justified = [response("c", "A", [-0.4])]
    scored = pa.table(
        {"example_id": ["b", "a", "x"], "tokens": [2, 1, 1], "logprob": [-1.2, None, -9.0]}
    )
    settings = {"policy": Paper(percentile=100), "kind": "multiple_choice"}
    got = by_id(select(table(rows), table(justified), scored, **settings))
    # Two tokens at 0.6 nats; what could not be scored keeps its vote's; a verdict goes before.
    assert [got[name]["entropy"] for name in "abc"] == pytest.approx([0.5, 0.6, 0.4])
    upstream = settings | {"policy": Upstream(percentile=100)}
    got = by_id(select(table(rows), table(justified), scored, **upstream))
    assert got["b"]["entropy"] == pytest.approx(0.1)  # as the authors' code: the first vote's own


def test_a_closed_task_needs_no_written_answers():
    rows = table([response("a"), response("b")]).drop_columns("answer_text")
    got = select(rows, None, policy=Paper(), kind="label")
    assert got["pseudo_answer_text"].to_pylist() == ["A", "A"]
    with pytest.raises(ValueError, match="responses: no column 'answer_text'"):
        select(rows, None, policy=Paper(), kind="text")


def test_numbers_within_the_tolerance_are_one_vote():
    rows = [response("a", n, [-1.0]) for n in ("100", "100.5", "7")]
    exact = run(rows, kind="numeric").to_pylist()[0]
    close = run(rows, kind="numeric", relative_tolerance=0.01).to_pylist()[0]
    assert exact["agreement"] == pytest.approx(1 / 3)
    assert close["agreement"] == pytest.approx(2 / 3) and close["pseudo_answer"] == "100"


def test_an_infinite_entropy_is_last():
    rows = [
        response(name, "A", [x]) for name, x in zip("abc", (-1.0, -math.inf, -2.0), strict=True)
    ]
    got = by_id(run(rows, percentile=60))
    assert [got[name]["selected"] for name in "abc"] == [True, False, True]
    assert got["b"]["entropy"] == math.inf


def test_a_null_count_of_tokens_is_no_token_whatever_lies_in_the_shard(tmp_path):
    for others in ([], [response("b", None, None, tokens=0)], [response("b")]):
        rows = [response("a", None, [-1.0]) | {"tokens": None}, *others]
        assert by_id(run(rows))["a"]["reason"] == "no_response"
    rows += [response("a", "A", [-1.0])]
    assert by_id(run(rows))["a"]["reason"] == "selected"


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


def test_rows_without_an_nll_lose_ties_in_any_order():
    rows = [response("a", "A", None), response("a", "B", [-math.inf])]
    for order in (rows, rows[::-1]):
        got = by_id(run(order))["a"]
        assert got["pseudo_answer"] == "B" and got["entropy"] == math.inf


def test_options_outside_the_top_logprobs_leave_no_row_without_a_distribution():
    # An endpoint gives −inf for options outside its top logprobs.
    rows = [response(f"{i:03}", "A", [-1.0], [0.0, -math.inf]) for i in range(990)]
    rows += [response(f"b{i:02}", "B", [-1.0], [-math.inf, 0.0]) for i in range(10)]
    with pytest.warns(UserWarning, match=r"out of reach: .* stays 49\.00 %"):
        got = run(rows, policy="balanced", classes=LETTERS[:2], prior=[0.5, 0.5])
    assert set(got["reason"].to_pylist()) == {"selected", "outside_quota"}
    assert got["score"].to_numpy().tolist() == [1.0] * 1000
    # Classes that no row has, and rows of fewer options, change nothing for the others.
    p = np.log([[0.75, 0.25], [0.5, 0.5]]).tolist()
    rows = [response("a", "A", [-1.0], p[0]), response("b", "A", [-1.0], p[1])]
    for prior in ([0.0, 0.0, 1.0], [0.1, 0.1, 0.8]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if prior[0] == 0 else "error")
            got = by_id(run(rows, policy="balanced", classes=LETTERS, prior=prior))
        assert all(sum(row["distribution"]) == pytest.approx(1) for row in got.values())


def test_tables_of_any_library():
    rows, justified = many_examples()
    arrow = [table(rows), table(justified)]
    for policy in ("paper", "balanced"):
        want = select(*arrow, **settings_of(policy))
        for form in (
            pl.from_arrow,
            lambda t: pl.from_arrow(t).lazy(),
            lambda t: t.to_pandas(),
            lambda t: t.to_reader(),
            lambda t: t.to_pydict(),
            lambda t: {name: t[name] for name in t.column_names},
            lambda t: duckdb.from_arrow(t),
        ):
            assert select(*map(form, arrow), **settings_of(policy)).equals(want)
    with pytest.raises(ValueError, match="justified: example 'x' has no responses"):
        select(arrow[0], pl.from_arrow(table([response("x")])), **settings_of("paper"))


def test_what_is_no_table_is_named():
    for wrong, message in (
        (5, "responses: got a int, wanted a table"),
        ([1], "responses: got a list, wanted a table"),
        (None, "responses: got a NoneType, wanted a table"),
        ({"example_id": ["a"]}, "responses: no column 'answer'; its columns are example_id"),
        ({"example_id": ["a"], "answer": []}, "responses: "),
    ):
        with pytest.raises(ValueError, match=message):
            select(wrong, None, **settings_of("paper"))
    with pytest.raises(ValueError, match="justified: got a str, wanted a table"):
        select(table([response("a")]), "b", **settings_of("paper"))
    with pytest.raises(ValueError, match="labeled_entropies: none of them is a number"):
        run([response("a")], labeled_entropies=[math.nan])
    with pytest.raises(ValueError, match="labeled_entropies"):
        run([response("a")], labeled_entropies=[])


def test_an_empty_table_gives_an_empty_selection():
    for policy in ("paper", "upstream", "balanced"):
        got = run([], policy=policy, classes=LETTERS, prior=[1, 1, 1])
        assert got.num_rows == 0 and got.schema == SELECTION


def test_what_cannot_be_used_is_named():
    good = response("a")
    with pytest.raises(ValueError, match=r"row 1: 0\.5 is not a logprob"):
        run([good, response("b", "A", [0.5])])
    with pytest.raises(ValueError, match="'x' has no responses"):
        run([good], [response("x")])
    with pytest.raises(ValueError, match="more than one row"):
        run([good], [good, good])
    with pytest.raises(ValueError, match="3 classes, but a prior of 1"):
        run([good], policy="balanced", classes=LETTERS, prior=[1])
    with pytest.raises(ValueError, match="closed task"):
        run([good], policy="balanced", kind="text", classes=LETTERS, prior=[1, 1, 1])
    with pytest.raises(ValueError, match="percentile"):
        run([good], percentile=0)
    with pytest.raises(ValueError, match="kind"):
        run([good], kind="poem")
    with pytest.raises(ValueError, match="row 0: 3 options, but 2 classes"):
        run(
            [response("a", "A", [-1.0], [-1.0] * 3)],
            policy="balanced",
            classes=LETTERS[:2],
            prior=[1, 1],
        )
