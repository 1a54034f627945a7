"""A corpus whose classes have other shares than the labels'."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import _native
from semievol_ray.selection import select
from semievol_ray.selection.label_shift import (
    chosen_by_class,
    corpus_prior,
    labels_prior,
    shrunk_prior,
)
from semievol_ray.selection.policies import POLICIES, Balanced
from tests.selection.responses import by_id, response, table

CLASSES, EVEN = ("A", "B", "C"), [1 / 3, 1 / 3, 1 / 3]


def posteriors(rng, shares, rows, distance=1.0):
    """Classes drawn by their shares, and p(c | x) of a model that learnt from even ones."""
    gold = rng.choice(3, rows, p=shares)
    x = rng.normal(size=(rows, 3)) + distance * np.eye(3)[gold]
    p = np.exp(distance * x)  # the classes' densities at x, up to a factor of x alone
    return gold, p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shares", [[0.8, 0.15, 0.05], [0.1, 0.1, 0.8], EVEN])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_found_that_the_labels_do_not_have(shares, seed):
    gold, p = posteriors(np.random.default_rng(seed), shares, 20_000)
    found = corpus_prior(pa.array(p.tolist(), pa.list_(pa.float32())), EVEN)
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx(np.bincount(gold) / len(gold), abs=0.03)


def test_edges_have_their_written_meaning():
    kind = pa.list_(pa.float32())
    assert corpus_prior(pa.array([], kind), [0.2, 0.8]).tolist() == [0.2, 0.8]
    assert corpus_prior(pa.array([None, []], kind), [0.2, 0.8]).tolist() == [0.2, 0.8]
    assert corpus_prior(pa.array([[0.0, 0.0]], kind), [0.2, 0.8]).tolist() == [0.2, 0.8]
    # What no label has stays at 0, and examples may have fewer options than there are.
    rows = pa.array([[0.9, 0.1], [0.8, 0.2], None, [0.3, 0.3, 0.4]], kind)
    found = corpus_prior(rows, [0.5, 0.5, 0.0])
    assert found[2] == 0 and found[0] > found[1] > 0


def test_selection_aligns_to_the_corpus_where_it_is_told_to():
    gold, p = posteriors(np.random.default_rng(0), [0.8, 0.15, 0.05], 2_000)
    rows = [response(f"e{i:04}", None, options=np.log(q).tolist()) for i, q in enumerate(p)]

    def right(**options):
        policy = Balanced(classes=CLASSES, prior=tuple(EVEN), percentile=100, **options)
        found = by_id(select(table(rows), None, policy=policy, kind="multiple_choice"))
        said = [found[f"e{i:04}"]["pseudo_answer"] for i in range(len(gold))]
        return np.mean([CLASSES.index(s) == g for s, g in zip(said, gold, strict=True)])

    assert right(shifts_prior=True) > right() + 0.1


@pytest.mark.parametrize("name", ["balanced", "stacked"])
def test_whose_prior_is_one_of_two(name):
    class Facts:
        classes = CLASSES

        def label_counts(self):
            return [9, 9, 9]

    settings = {"percentile": 50.0, "align_prior": True}
    with pytest.raises(ValueError, match="prior: 'corpsu' is neither labels nor corpus"):
        POLICIES[name].of(settings | {"prior": "corpsu"}, Facts())
    assert Balanced.of(settings | {"prior": "corpus"}, Facts()).shifts_prior
    assert not Balanced.of(settings, Facts()).shifts_prior


@pytest.mark.parametrize(
    ("counts", "align", "options", "aligned_to"),
    [
        ([9, 9, 9], "auto", {}, None),
        ([9, 9, 9], True, {}, "labels"),
        ([9, 9, 9], "auto", {"prior": "labels"}, "labels"),
        ([9, 9, 9], "auto", {"prior": "corpus"}, "corpus"),
        ([9, 9, 9], False, {"prior": "corpus"}, None),
        ([7, 9, 11], "auto", {}, "labels"),
    ],
)
def test_labels_that_were_chosen_by_class_are_no_prior(counts, align, options, aligned_to):
    class Facts:
        classes = CLASSES

        def label_counts(self):
            return counts

    policy = Balanced.of({"percentile": 50.0, "align_prior": align} | options, Facts())
    weighs = align == "auto" and not options and aligned_to == "labels"
    assert policy.label_counts == (tuple(counts) if weighs else None)
    assert policy.statistics() == {"aligned_to": aligned_to}
    doubts = align == "auto" and counts == [9, 9, 9] and not options
    assert (policy.note() is not None) == doubts


def test_samples_are_hardly_ever_taken_for_labels_chosen_by_class():
    rng = np.random.default_rng(0)
    for classes, labels in ((2, 400), (3, 90), (4, 500), (77, 770)):
        drawn = rng.multinomial(labels, np.full(classes, 1 / classes), 2_000)
        # Two classes tie by chance alone: 4 % of samples of 400.
        assert np.mean([chosen_by_class(counts) for counts in drawn]) < 0.05
    # Where labels are few, so that some classes have none, the others are even by chance.
    for classes, labels in ((77, 77), (77, 154), (150, 300), (2000, 4000)):
        drawn = rng.multinomial(labels, np.full(classes, 1 / classes), 300)
        assert np.mean([chosen_by_class(counts) for counts in drawn]) < 0.03
    assert chosen_by_class([3] * 70 + [0] * 7) and chosen_by_class([1] * 20)
    assert not chosen_by_class([1] * 20 + [0])
    # Duplicates leave some classes short; one without labels was not chosen.
    assert chosen_by_class([10] * 70 + [9] * 7) and chosen_by_class([10, 10, 10, 10, 0])
    assert not chosen_by_class([50]) and not chosen_by_class([]) and not chosen_by_class([67, 273])


def test_labels_count_as_far_as_they_know_better_than_the_voters():
    rng = np.random.default_rng(0)
    _, p = posteriors(rng, EVEN, 4_000, distance=2.0)
    samples = rng.multinomial(60, EVEN, 200)

    def error(p, prior_of):
        rows = pa.array(p.tolist(), pa.list_(pa.float32()))
        return np.mean([np.abs(prior_of(counts, rows) - 1 / 3).sum() for counts in samples])

    def labels_alone(counts, rows):
        return np.array(labels_prior(counts))

    # Of voters without a bias labels tell nothing new: what they scatter by chance is left out.
    assert error(p, shrunk_prior) < 0.5 * error(p, labels_alone)
    # Voters who hardly ever say C are put right.
    biased = p * [1.0, 1.0, 0.005]
    biased /= biased.sum(axis=1, keepdims=True)
    said = np.abs(biased.mean(axis=0) - 1 / 3).sum()
    assert error(biased, shrunk_prior) < min(0.6 * said, 1.25 * error(biased, labels_alone))


@pytest.mark.parametrize(("rows", "most"), [(1, 0.25), (3, 0.16), (30, 0.06)])
def test_a_corpus_of_few_rows_is_what_is_said_of_it(rows: int, most: float):
    # Its own chance is no bias of the voters: aligned to the labels, a third would be put wrong.
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(200):
        labels, gold = rng.multinomial(200, [0.6, 0.3, 0.1]), rng.choice(3, rows, p=[0.6, 0.3, 0.1])
        p = np.full((rows, 3), 0.005) + 0.985 * np.eye(3)[gold]
        sure = pa.array(p.tolist(), pa.list_(pa.float32()))
        weights = _native.alignment_weights(sure, shrunk_prior(labels, sure).tolist())
        wrong.append(np.mean((p * weights).argmax(axis=1) != gold))
    assert np.mean(wrong) < most


def test_one_class_that_is_never_said_leaves_the_others_alone():
    rng = np.random.default_rng(2)
    shares = rng.dirichlet([2] * 50)
    counts = rng.multinomial(150, shares)
    said = shares.copy()
    said[0] = 1e-5
    said /= said.sum()
    rows = pa.array([said.tolist()] * 3000, pa.list_(pa.float32()))
    without = counts == 0
    assert shrunk_prior(counts, rows)[without].sum() > 0.95 * said[without].sum() > 0


def test_where_nothing_is_said_the_shares_are_the_labels():
    kind = pa.list_(pa.float32())
    for rows in ([], [None], [[0.0, 0.0]]):
        assert shrunk_prior([3, 0], pa.array(rows, kind)).tolist() == labels_prior([3, 0])
    one = pa.array([[1.0, 0.0]], kind)
    assert shrunk_prior([3, 0], one).tolist() == [1.0, 0.0]


def test_the_share_of_a_class_without_labels_is_possible():
    assert labels_prior([3, 0]) == [3.5 / 4, 0.5 / 4]
