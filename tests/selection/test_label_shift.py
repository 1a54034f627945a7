"""A corpus whose classes have other shares than the labels'."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray.selection import select
from semievol_ray.selection.label_shift import corpus_prior
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

        def prior(self):
            return EVEN

    settings = {"percentile": 50.0, "align_prior": True}
    with pytest.raises(ValueError, match="prior: 'corpsu' is neither labels nor corpus"):
        POLICIES[name].of(settings | {"prior": "corpsu"}, Facts())
    assert Balanced.of(settings | {"prior": "corpus"}, Facts()).shifts_prior
    assert not Balanced.of(settings, Facts()).shifts_prior
