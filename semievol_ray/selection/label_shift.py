"""The classes' shares in a corpus, where they are others than among the labels.

Saerens, Latinne and Decaestecker (2002): expectation maximisation over posteriors p(c | x) that
were learnt under the labels' shares. What is estimated is as good as those are calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_MOST_STEPS, _NEAR = 200, 1e-6

Floats = npt.NDArray[np.float64]


def corpus_prior(distributions: pa.ListArray, prior: Sequence[float]) -> Floats:
    """The share of each class in a corpus, float64 (k,), by its rows' distributions.

    `distributions` are lists of at most k probabilities, in the order of the classes; `prior` are
    the shares under which they were learnt. A class that no label has keeps a share of 0. Where
    there is no distribution, or none with any probability, the prior comes back.
    """
    given = np.asarray(prior, np.float64)
    lists = distributions.filter(distributions.is_valid())
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    classes = np.arange(len(values)) - np.repeat(starts, lengths)
    share = given
    for _ in range(_MOST_STEPS):
        ratio = np.divide(share, given, out=np.zeros_like(given), where=given > 0)
        shifted = values * ratio[classes]
        totals = np.bincount(rows, shifted, minlength=len(lengths))
        shifted /= np.where(totals > 0, totals, 1.0)[rows]
        found = np.bincount(classes, shifted, minlength=len(given))
        if not found.sum() > 0:
            return given
        before, share = share, found / found.sum()
        if np.abs(share - before).max() < _NEAR:
            break
    return share
