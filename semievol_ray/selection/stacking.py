"""What each voter is worth: weights of a pool of distributions, from labels that none had seen.

The pool is log-linear (a product of experts): p(c) is proportional to the product of p_v(c)^w_v.
A voter of weight 0 is not heard; one that is too sure of itself gets less than it would.
Convex in the weights, so the fit is the same wherever it begins.
"""

from __future__ import annotations

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
    # Share of the labels that each voter alone has right.
    accuracies: dict[str, float]
    labels: int


def fit(voters: Mapping[str, pa.Array], gold: Sequence[int]) -> Stack:
    """The weights that make the labels most probable, shrunk to the plain mean.

    `voters` hold each voter's log-probabilities of the options, a list for every label (as
    `option_logprobs`); `gold` is the index of the right option. Raises ValueError where there is
    no label, or lists of one label differ in length.
    """
    if not len(gold):
        raise ValueError("gold: no label, so no weights follow")
    told = [rows.to_pylist() for rows in voters.values()]
    most = max(len(row or ()) for rows in told for row in rows)
    widths = [max(len(row or ()) for row in rows) or most for rows in zip(*told, strict=True)]
    logs = np.stack([log_probabilities(rows, widths) for rows in voters.values()], axis=1)
    right = np.asarray(gold)
    found = _minimize(logs, right)
    alone = logs.argmax(axis=2) == right[:, None]
    names = list(voters)
    return Stack(
        dict(zip(names, found.tolist(), strict=True)),
        dict(zip(names, alone.mean(axis=0).tolist(), strict=True)),
        len(right),
    )


def log_probabilities(rows: pa.Array, widths: Sequence[int]) -> Logs:
    """Normalised log-probabilities (labels, options) of lists of option_logprobs; else −inf.

    `widths`: how many options each example has. A list that is null or says nothing is uniform
    over them.
    """
    found = np.full((len(rows), max(widths)), -np.inf)
    for i, (row, width) in enumerate(zip(rows.to_pylist(), widths, strict=True)):
        values = np.array([-np.inf if x is None else x for x in row or ()], dtype=np.float64)
        if not np.isfinite(values).any():
            values = np.zeros(width)
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
