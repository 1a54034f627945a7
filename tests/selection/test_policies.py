"""What policies select, the weights of voters, the promise of an error, a policy of one's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import log_softmax

from semievol_ray.selection import select, stacking
from semievol_ray.selection.judged import CODE, Judged, first_of, valid
from semievol_ray.selection.policies import (
    POLICIES,
    Agreement,
    Calibration,
    Oracle,
    Random,
    Risk,
    Stacked,
)
from semievol_ray.selection.policies.risk import fewest_labels, threshold
from semievol_ray.selection.policies.threshold import ThresholdPolicy
from tests.selection.responses import LETTERS, by_id, response, table

CHOICE = {"kind": "multiple_choice"}


def voter(rng, gold, skill, classes=3, sharpness=1.0):
    """Log-probabilities of a voter who knows the truth as far as its skill goes."""
    logits = rng.normal(size=(len(gold), classes))
    logits[np.arange(len(gold)), gold] += skill
    return log_softmax(sharpness * logits, axis=1)


def lists(logs):
    return pa.array(logs.tolist(), pa.list_(pa.float32()))


def loss(logs, weights, gold):
    pooled = log_softmax(sum(w * x for w, x in zip(weights, logs, strict=True)), axis=1)
    return -pooled[np.arange(len(gold)), gold].mean()


def test_a_voter_gets_what_it_is_worth():
    rng = np.random.default_rng(0)
    gold, fresh = rng.integers(0, 3, 400), rng.integers(0, 3, 4000)

    def voters(rows):
        return {
            "good": voter(rng, rows, 2.5),
            "noise": voter(rng, rows, 0.0, sharpness=3.0),
            "loud": voter(rng, rows, 1.5, sharpness=4.0),
        }

    known, unseen = voters(gold), voters(fresh)
    stack = stacking.fit({name: lists(logs) for name, logs in known.items()}, gold)
    assert stack.labels == 400
    assert stack.weights["noise"] < 0.03 and stack.weights["good"] > 0.7
    # As sure of itself as four: it counts for a quarter of what it says, or so.
    assert 0.1 < stack.weights["loud"] < 0.4
    assert stack.accuracies["good"] > stack.accuracies["loud"] > stack.accuracies["noise"]
    logs = list(unseen.values())
    fitted = loss(logs, list(stack.weights.values()), fresh)
    assert fitted < loss(logs, [1 / 3] * 3, fresh) and fitted < loss(logs, [1, 0, 0], fresh)


def test_few_labels_stay_near_the_plain_mean():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 2)
    voters = {name: lists(voter(rng, gold, 1.0)) for name in "ab"}
    weights = stacking.fit(voters, gold).weights
    assert all(abs(w - 0.5) < 0.2 for w in weights.values())
    with pytest.raises(ValueError, match="no label"):
        stacking.fit({"a": lists(np.empty((0, 3)))}, [])


def test_weights_are_the_best_that_there_are():
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 4, 60)
    logs = [voter(rng, gold, 1.0, 4), voter(rng, gold, 0.5, 4)]
    found = stacking.fit({str(i): lists(x) for i, x in enumerate(logs)}, gold).weights.values()

    def penalised(weights):
        return 60 * loss(logs, weights, gold) + 5 * sum((w - 0.5) ** 2 for w in weights)

    best = penalised(list(found))
    for step in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert best <= penalised([w + s for w, s in zip(found, step, strict=True)]) + 1e-9


def test_options_that_an_example_lacks_change_nothing():
    rows = [[-0.1, -2.5], [-1.0, -1.0, -1.5], None, [0.0, -math.inf], []]
    logs = stacking.log_probabilities(pa.array(rows, pa.list_(pa.float32())), [3] * len(rows))
    assert np.isneginf(logs[0, 2]) and np.isfinite(logs[1]).all()
    assert logs[2] == pytest.approx([math.log(1 / 3)] * 3) == logs[4]
    assert np.exp(logs[:, :3]).sum(axis=1) == pytest.approx(np.ones(5))
    assert math.exp(logs[3, 1]) == pytest.approx(1e-6, rel=1e-3)
    voters = {"a": pa.array(rows[:2], pa.list_(pa.float32()))}
    assert 0 < stacking.fit(voters, [0, 2]).weights["a"] < 2


def test_a_voter_that_says_nothing_is_as_good_first_as_last():
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 3, 90)
    # Every other example has two options more than the rest.
    good, ok = ([row[: 5 - 2 * (i % 2)] for i, row in enumerate(voter(rng, gold, by, 5).tolist())]
                for by in (2.0, 1.0))  # fmt: skip
    voters = {"good": good, "ok": ok, "mute": [None] * 90}
    voters = {name: pa.array(rows, pa.list_(pa.float32())) for name, rows in voters.items()}
    first = {name: voters[name] for name in ("mute", "good", "ok")}
    found = [stacking.fit(given, gold).weights for given in (voters, first)]
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_a_voter_without_probabilities_weighs_nothing_and_is_told():
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 3, 60)
    spoken = {"good": voter(rng, gold, 2.0)}
    spoken["shy"] = voter(rng, gold, 2.0)
    rows = []
    for i in range(60):
        rows += voted(f"e{i:02}", {name: np.exp(logs[i]) for name, logs in spoken.items()})
        rows[-1]["option_logprobs"] = rows[-1]["option_logprobs"] if i % 2 else None
        rows.append(response(f"e{i:02}", "A") | {"collaborator": "mute"})
    facts = Facts(Calibration(table(rows), {f"e{i:02}": LETTERS[g] for i, g in enumerate(gold)}))
    policy = Stacked.of({"percentile": 50}, facts)
    assert policy.weights()["mute"] == 0 and policy.weights()["good"] > 0.5
    assert "mute 0.00 (gives no probabilities)" in policy.note()
    # Alone, a voter is judged by what it says something of.
    heard = (spoken["shy"].argmax(axis=1) == gold)[1::2].mean()
    assert policy.statistics()["voters"]["shy"]["right"] == pytest.approx(heard)
    silent = pa.array([None] * 3, pa.list_(pa.float32()))
    with pytest.raises(ValueError, match="no voter gives the options' probabilities"):
        stacking.fit({"a": silent, "b": silent}, [0, 1, 2])
    short = {"a": lists(np.zeros((1, 3))), "b": lists(np.zeros((1, 2)))}
    with pytest.raises(ValueError, match=r"label 0: voters have \[2, 3\] options"):
        stacking.fit(short, [0])


def voted(name, distributions):
    """A row for each voter, by its name."""
    return [
        response(name, "A", [-1.0], np.log(p).tolist()) | {"collaborator": who}
        for who, p in distributions.items()
    ]


def test_stacked_hears_voters_by_their_weights():
    rows = voted("a", {"good": [0.6, 0.3, 0.1], "poor": [0.05, 0.9, 0.05]})
    rows += voted("b", {"good": [0.1, 0.1, 0.8], "poor": [0.9, 0.05, 0.05]})

    def selected(**weights):
        policy = Stacked(classes=tuple(LETTERS), voter_weights=tuple(weights.items()))
        return by_id(select(table(rows), None, policy=policy, **CHOICE))

    alone = selected(good=1.0)
    assert [alone[name]["pseudo_answer"] for name in "ab"] == ["A", "C"]
    assert alone["a"]["distribution"] == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)
    both = selected(good=1.0, poor=0.5)
    product = np.array([0.6, 0.3, 0.1]) * np.sqrt([0.05, 0.9, 0.05])
    assert both["a"]["distribution"] == pytest.approx(product / product.sum(), abs=1e-6)
    assert both["a"]["score"] == pytest.approx((product / product.sum()).max(), abs=1e-6)
    with pytest.raises(ValueError, match="no voter"):
        selected(good=0.0)


class Facts:
    """What a run would know of three classes."""

    classes = LETTERS

    def __init__(self, calibration=None, answers=None, tolerance=0.0):
        self._calibration, self._answers, self.tolerance = calibration, answers, tolerance

    def label_counts(self):
        return [70, 60, 70]

    def calibration(self):
        return self._calibration

    def true_answers(self):
        return self._answers


def test_stacked_is_fitted_on_the_held_out_labels():
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 3, 200)
    good, noise = voter(rng, gold, 3.0), voter(rng, gold, 0.0)
    rows = []
    for i in rng.permutation(200):  # in any order
        rows += voted(f"e{i}", {"good": np.exp(good[i]), "noise": np.exp(noise[i])})
    answers = {f"e{i}": LETTERS[g] for i, g in enumerate(gold)}
    facts = Facts(Calibration(table(rows), answers))
    weights = Stacked.of({"percentile": 50}, facts).weights()
    assert weights["good"] > 0.6 and weights["noise"] < 0.15


def test_agreement_keeps_what_most_voters_say():
    rows = []
    for name, answers in {"a": "AAAA", "b": "AAAB", "c": "AABC", "d": "ABCD"}.items():
        rows += [response(name, answer) for answer in answers]
    got = by_id(select(table(rows), None, policy=Agreement(percentile=50), **CHOICE))
    assert [got[name]["selected"] for name in "abcd"] == [True, True, False, False]
    assert got["b"]["score"] == 0.75


def test_controls_are_chance_and_truth():
    rows = [response(f"{i:04}", "A", None if i % 9 == 0 else [-1.0]) for i in range(2000)]
    got = select(table(rows), None, policy=Random(percentile=30), **CHOICE)
    kept = got["selected"].to_numpy()
    assert kept.sum() == 600
    # By chance: not those that come first, and answers without logprobs as much as others.
    assert abs(kept[:1000].sum() - 300) < 50 and abs(kept[::9].mean() - 0.3) < 0.1
    truth = {f"{i:04}": "AB"[i % 2] for i in range(1000)}
    policy = Oracle.of({"percentile": 50}, Facts(answers=truth))
    got = by_id(select(table(rows), None, policy=policy, **CHOICE))
    assert all(row["selected"] == (truth.get(name) == "A") for name, row in got.items())
    assert got["0001"]["reason"] == "wrong" == got["1500"]["reason"]
    rows = [response("a", "0.141", [-1.0]), response("b", "0.2", [-1.0])]
    policy = Oracle.of(
        {"percentile": 50}, Facts(answers={"a": "0.1412", "b": "0.3"}, tolerance=0.01)
    )
    got = by_id(select(table(rows), None, policy=policy, kind="numeric", relative_tolerance=0.01))
    assert got["a"]["selected"] and not got["b"]["selected"]


def test_the_promised_error_holds_as_often_as_promised():
    """1,000 draws of held-out labels: the true error of what is kept, against the promise."""
    rng = np.random.default_rng(4)
    alpha, delta, broken, useful = 0.1, 0.1, 0, 0
    # The chance of being right rises with the score.
    p_right = lambda score: 0.35 + 0.64 * score  # noqa: E731
    grid = (np.arange(20_000) + 0.5) / 20_000
    for _ in range(1000):
        score = rng.random(300)
        found = threshold(score, rng.random(300) < p_right(score), alpha, delta)
        kept = grid[grid >= found]
        useful += len(kept) > 0
        broken += len(kept) > 0 and (1 - p_right(kept)).mean() > alpha
    # A binomial count of at most 10 % of 1,000, and its noise.
    assert broken <= 100 + 3 * math.sqrt(1000 * 0.1 * 0.9)
    assert useful > 300


def test_too_few_labels_promise_nothing():
    few = fewest_labels(0.05, 0.1)
    assert few == 45 and 0.95**few <= 0.1 < 0.95 ** (few - 1)
    assert threshold([0.9] * (few - 1), [True] * (few - 1), 0.05, 0.1) == math.inf
    assert threshold([0.9] * few, [True] * few, 0.05, 0.1) <= 0.9


def test_risk_selects_what_the_labels_vouch_for():
    rng = np.random.default_rng(5)
    rows, answers = [], {}
    for i in range(300):
        sure = i % 2 == 0
        p = [0.98, 0.01, 0.01] if sure else [0.5, 0.3, 0.2]
        rows += voted(f"{i:03}", {"a": p})
        answers[f"{i:03}"] = "A" if sure or rng.random() < 0.6 else "B"
    policy = Risk.of({"percentile": 50}, Facts(Calibration(table(rows), answers)))
    assert 0.5 < policy.score < 0.98
    got = by_id(select(table(rows), None, policy=policy, **CHOICE))
    assert got["000"]["selected"] and got["001"]["reason"] == "too_risky"
    nothing = Risk.of({"percentile": 50, "alpha": 0.001}, Facts(Calibration(table(rows), answers)))
    assert not any(select(table(rows), None, policy=nothing, **CHOICE)["selected"].to_pylist())
    for wrong in ("many", [0.1], None):
        with pytest.raises(ValueError, match="alpha: .* is no number"):
            Risk.of({"percentile": 50, "alpha": wrong}, Facts(Calibration(table(rows), answers)))
    with pytest.raises(ValueError, match="alpha: 2.0"):
        Risk.of({"percentile": 50, "alpha": 2}, Facts(Calibration(table(rows), answers)))


@dataclass(frozen=True, kw_only=True)
class Margin(ThresholdPolicy):
    """A policy of one's own: how far the winner leads."""

    def judge(self, examples):
        known = valid(examples.winner)
        reason = first_of(no_response=~examples.responded, unparsed=~known)
        return Judged(
            examples.winner,
            examples.winner_text,
            examples.winner_entropy,
            np.where(known, examples.margin, np.nan),
            reason,
            ranked=reason == CODE["selected"],
        )


def test_a_policy_is_a_class_and_a_line_of_the_table(monkeypatch):
    from semievol_ray.config import SelectionConfig

    with pytest.raises(ValueError, match="unknown policy 'margin'; known: paper"):
        SelectionConfig(policy="margin")
    monkeypatch.setitem(POLICIES, "margin", Margin)
    config = SelectionConfig(policy="margin", percentile=50)
    policy = POLICIES[config.policy].of({"percentile": config.percentile}, Facts())
    rows = [response("a", x) for x in "AAAB"] + [response("b", x) for x in "AAAA"]
    got = by_id(select(table(rows), None, policy=policy, **CHOICE))
    assert got["b"]["selected"] and not got["a"]["selected"]
    with pytest.raises(ValueError, match="the policy margin has no alpha"):
        SelectionConfig(policy="margin", options={"alpha": 0.1})
