"""The classes' shares in a corpus: whether labels tell them, and what voters say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_MOST_STEPS, _NEAR = 200, 1e-6
# Samples as even as that are one in a hundred, at most.
_HARDLY_EVER = 0.01
# Classes of which fewer labels are expected say nothing of how biased voters are.
_FEWEST_EXPECTED = 0.1

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def labels_prior(counts: Sequence[int]) -> list[float]:
    """The share of each class among labels; half a count each keeps those without any possible."""
    total = sum(counts) + 0.5 * len(counts)
    return [(count + 0.5) / total for count in counts]


def shrunk_prior(counts: Sequence[int], distributions: pa.ListArray) -> Floats:
    """The share of each class in a corpus, float64 (k,), by its labels and what is said of it.

    `counts` are the labels of each class, a sample of the corpus's rows; `distributions` are those
    of its rows. Empirical Bayes: a class has the share that is said times an unknown bias of the
    voters, gamma distributed around 1, and its labels are Poisson by that; the biases' variance is
    what the counts scatter beyond chance. So labels count as far as they know better: where they
    scatter like a sample of what is said, that stays as it is. Where nothing is said, it is theirs.

    The corpus's rows are drawn, too: by chance alone n labels differ from N rows as n N / (n + N)
    do from the truth. For so many they count, and what chance is, both tell together.
    """
    labels = np.asarray(counts, np.float64)
    values, found_in, classes = _flat(distributions)
    said: Floats = np.bincount(classes, values, minlength=len(labels)).astype(np.float64)
    if not said.sum() > 0:
        return np.asarray(labels_prior(counts))
    shares, rows = said / said.sum(), len(np.unique(found_in[values > 0]))
    pooled = (labels + rows * shares) / (labels.sum() + rows)
    known = rows / (rows + labels.sum())
    labels *= known
    expected, by_chance = labels.sum() * shares, labels.sum() * pooled
    # A class that hardly any label is expected of would outweigh all others, and tells of itself.
    heard = expected >= _FEWEST_EXPECTED
    scale = np.where(heard, np.maximum(by_chance, 1.0), np.inf)
    scatter = ((labels - expected) ** 2 / scale).sum()
    variance = by_chance * (1 - pooled)
    # Where rows are few beside the labels, up to a standard deviation of the scatter is given to
    # chance, too: a share that hangs on a row or two is no ground to put others right.
    squares = (by_chance * pooled / scale).sum() ** 2 - ((by_chance * pooled / scale) ** 2).sum()
    deviation = np.sqrt(2 * squares + ((2 * variance**2 + variance) / scale**2).sum())
    beyond_chance = scatter - (variance / scale).sum() - (1 - known) * deviation
    room = (expected**2 * (1 - 2 * shares + (shares**2).sum()) / scale).sum()
    if beyond_chance <= 0 or room <= 0:
        return shares
    strength = room / beyond_chance
    found: Floats = shares * (labels + strength) / (expected + strength)
    return found / found.sum()


def chosen_by_class(counts: Sequence[int]) -> bool:
    """Whether labels were chosen class by class, as many of each: they are too even for a sample.

    Then their counts tell nothing of the corpus. The lower tail of Pearson's chi-squared against
    even shares, over the classes that have labels. Where some have none, the others are what a
    sample leaves without its zeros: as even by chance as a Poisson count is that is not 0.
    """
    from scipy.stats import chi2

    found = np.array([count for count in counts if count], np.float64)
    if len(found) < 2:
        return False
    variance = found.mean() if len(found) == len(counts) else _without_zeros(found.mean())
    if not variance > 0:
        return False
    unevenness = ((found - found.mean()) ** 2 / variance).sum()
    return bool(chi2.cdf(unevenness, len(found) - 1) <= _HARDLY_EVER)


def _without_zeros(mean: float) -> float:
    """The variance of a Poisson count that is not 0, by its mean."""
    from scipy.special import lambertw

    rate = mean + float(lambertw(-mean * np.exp(-mean)).real)
    return mean * (1 + rate - mean)


def corpus_prior(distributions: pa.ListArray, prior: Sequence[float]) -> Floats:
    """The share of each class in a corpus, float64 (k,), by its rows' distributions.

    Saerens, Latinne and Decaestecker (2002): expectation maximisation over posteriors p(c | x) that
    were learnt under the labels' shares. What is estimated is as good as those are calibrated.
    `distributions` are lists of at most k probabilities, in the order of the classes; `prior` are
    the shares under which they were learnt. A class that no label has keeps a share of 0. Where
    there is no distribution, or none with any probability, the prior comes back.
    """
    given = np.asarray(prior, np.float64)
    values, rows, classes = _flat(distributions)
    share = given
    for _ in range(_MOST_STEPS):
        ratio = np.divide(share, given, out=np.zeros_like(given), where=given > 0)
        shifted = values * ratio[classes]
        totals = np.bincount(rows, shifted)
        shifted /= np.where(totals > 0, totals, 1.0)[rows]
        found = np.bincount(classes, shifted, minlength=len(given))
        if not found.sum() > 0:
            return given
        before, share = share, found / found.sum()
        if np.abs(share - before).max() < _NEAR:
            break
    return share


def _flat(distributions: pa.ListArray) -> tuple[Floats, Indices, Indices]:
    """Probabilities one after the other, with the row and the class of each."""
    lists = distributions.filter(distributions.is_valid())
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    classes = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return values, rows, classes
