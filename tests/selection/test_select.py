"""What is selected, and why not."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.selection import select
from semievol_ray.selection.policies import Paper, Upstream
from tests.conftest import ROOT
from tests.selection.responses import (
    LETTERS,
    by_id,
    response,
    run,
    table,
)


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


def test_the_readmes_programs_run(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Selection as a library")[2].partition("\n## ")[0]
    selects, in_polars = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    texts = ["It is 1,200.", "1200", "No idea.", "7", None]
    rows = [
        response(example, text, [-1.0 - i])
        for i, (example, text) in enumerate(zip("aaabb", texts, strict=True))
    ]
    columns = ["example_id", "text", "tokens", "token_logprobs"]
    pq.write_table(table(rows).select(columns), tmp_path / "responses.parquet")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(selects, found)
    assert by_id(found["table"])["a"]["pseudo_answer_text"] == "1,200"
    assert found["trusted"]["example_id"].to_pylist() == ["a"]
    exec(in_polars, found)
    frame = found["frame"].collect()
    assert frame["answer"].to_list() == ["1200", "1200", None, "7", None]
    assert frame["nll"].to_list() == [1.0, 2.0, 3.0, 4.0, 5.0]
