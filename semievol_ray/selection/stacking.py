"""What each voter is worth: weights of a pool of distributions, from labels that none had seen.

The pool is log-linear (a product of experts): p(c) is proportional to the product of p_v(c)^w_v.
A voter of weight 0 is not heard; one that is too sure of itself gets less than it would.
Convex in the weights, so the fit is the same wherever it begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# A voter rules out no answer: its probabilities are at least this.
SMALLEST = 1e-6
# How many nats a weight costs that lies 1 away from its share of the plain mean: with few labels
# the weights stay near it.
_SHRINKAGE = 5.0

Logs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Fitted weights by voter, and what they come to on the labels they were fitted on."""

    weights: dict[str, float]
    # Share of the labels that each voter alone has right, of those that it says something of; None
    # where it says nothing of any.
    accuracies: dict[str, float | None]
    labels: int


def fit(voters: Mapping[str, pa.Array], gold: Sequence[int]) -> Stack:
    """The weights that make the labels most probable, shrunk to the plain mean.

    `voters` hold each voter's log-probabilities of the options, a list for every label (as
    `option_logprobs`); `gold` is the index of the right option. One that says nothing of any label
    weighs nothing. Raises ValueError where there is no label, no voter says anything, or lists of
    one label differ in length.
    """
    if not len(gold):
        raise ValueError("gold: no label, so no weights follow")
    told = {name: rows.to_pylist() for name, rows in voters.items()}
    speaks = {name: np.array([says_something(row) for row in rows]) for name, rows in told.items()}
    names = [name for name in voters if speaks[name].any()]
    if not names:
        raise ValueError("no voter gives the options' probabilities, so no weights follow")
    lengths = [
        {len(row) for row in rows if row} for rows in zip(*(told[n] for n in names), strict=True)
    ]
    for i, found in enumerate(lengths):
        if len(found) > 1:
            raise ValueError(f"label {i}: voters have {sorted(found)} options, not as many")
    most = max(max(found) for found in lengths if found)
    widths = [max(found, default=most) for found in lengths]
    logs = np.stack([log_probabilities(voters[name], widths) for name in names], axis=1)
    right = np.asarray(gold)
    weights = dict(zip(names, _minimize(logs, right).tolist(), strict=True))
    alone = logs.argmax(axis=2) == right[:, None]
    accuracies = {
        name: float(alone[speaks[name], i].mean()) for i, name in enumerate(names)
    }  # fmt: skip
    return Stack(
        {name: weights.get(name, 0.0) for name in voters},
        {name: accuracies.get(name) for name in voters},
        len(right),
    )


def says_something(row: Sequence[float | None] | None) -> bool:
    """Whether a list of option_logprobs has a probability above 0."""
    return any(value is not None and math.isfinite(value) for value in row or ())


def log_probabilities(rows: pa.Array, widths: Sequence[int]) -> Logs:
    """Normalised log-probabilities (labels, options) of lists of option_logprobs; else −inf.

    `widths`: how many options each example has. A list that is null or says nothing is uniform
    over them.
    """
    found = np.full((len(rows), max(widths)), -np.inf)
    for i, (row, width) in enumerate(zip(rows.to_pylist(), widths, strict=True)):
        values = np.zeros(width)
        if says_something(row):
            values = np.array([-np.inf if x is None else x for x in row or ()], dtype=np.float64)
        p = np.exp(values - values.max())
        p = np.maximum(p / p.sum(), SMALLEST)
        found[i, : len(p)] = np.log(p / p.sum())
    return found


def _minimize(logs: Logs, gold: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    from scipy.optimize import minimize

    n, voters, _ = logs.shape
    plain = np.full(voters, 1 / voters)
    # Places past an example's own options have no part in anything.
    known = np.isfinite(logs[:, 0, :])
    finite = np.where(np.isfinite(logs), logs, 0.0)
    picked = finite[np.arange(n), :, gold]

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scores = np.where(known, np.einsum("v,nvk->nk", weights, finite), -np.inf)
        top = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - top)
        total = p.sum(axis=1, keepdims=True)
        nll = (np.log(total) + top)[:, 0] - picked @ weights
        slope = np.einsum("nk,nvk->nv", p / total, finite) - picked
        far = weights - plain
        return (
            float(nll.sum() + _SHRINKAGE * far @ far),
            slope.sum(axis=0) + 2 * _SHRINKAGE * far,
        )

    bounds = [(0.0, None)] * voters
    return np.asarray(minimize(loss, plain, jac=True, method="L-BFGS-B", bounds=bounds).x)
