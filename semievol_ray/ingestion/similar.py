"""Rows that are nearly alike: MinHash, banded (Broder 1997; Indyk and Motwani 1998).

Of each text there are 128 minima, cut into bands. Texts that share a band are candidates, and how
alike they are is then estimated from one bit of each minimum (Li and König 2010), which is all of
them that travels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.selection import minhash

_MINIMA = 128
# A row is compared with so many of those before it that share its band.
_COMPARED = 16

_MULTIPLIER = np.uint64(0x9E37_79B9_7F4A_7C15)
_SHIFT = np.uint64(29)


def bands(table: pa.Table, similarity: float) -> dict[str, npt.NDArray[np.generic]]:
    """For each band of each row of examples its key, the row's index, and its sketch.

    The sketch is 128 bits, as `low` and `high`. The fewer minima a band has, the more pairs share
    one; here it has as many as still let more than half of the pairs at `similarity` do so. A text
    without a word in it has no minima, and so no band.
    """
    minima = minhash(_texts(table))
    # Of those that are null, `flatten` gives nothing.
    words = minima.flatten().to_numpy().reshape(-1, _MINIMA).astype(np.uint64)
    size = _band_size(similarity)
    count = bands_of_row(similarity)
    keys = [_mixed(words[:, n * size : (n + 1) * size], n) for n in range(count)]
    bits = np.packbits((words & np.uint64(1)).astype(np.uint8), axis=1).view(np.uint64)
    index = np.flatnonzero(minima.is_valid()).astype(np.uint32)
    return {
        "key": np.concatenate(keys),
        "index": np.tile(index, count),
        "low": np.tile(bits[:, 0], count),
        "high": np.tile(bits[:, 1], count),
    }


def bands_of_row(similarity: float) -> int:
    """How many bands a row has."""
    return _MINIMA // _band_size(similarity)


def alike(
    keys: npt.NDArray[np.uint64],
    low: npt.NDArray[np.uint64],
    high: npt.NDArray[np.uint64],
    similarity: float,
) -> npt.NDArray[np.bool_]:
    """Which rows are alike to one before them with their key; equal keys stand together.

    Bits of two sketches are equal where the minima are, and half of the others: of m equal ones
    among n, the similarity is 2 m / n - 1, with a standard error of 0.05 at 0.8.
    """
    found = np.zeros(len(keys), bool)
    needed = np.ceil((1 + similarity) / 2 * _MINIMA)
    for shift in range(1, min(_COMPARED, len(keys) - 1) + 1):
        same = keys[shift:] == keys[:-shift]
        if not same.any():
            break
        different = np.bitwise_count(low[shift:] ^ low[:-shift]).astype(np.int64)
        different += np.bitwise_count(high[shift:] ^ high[:-shift])
        found[shift:] |= same & (_MINIMA - different >= needed)
    return found


def _band_size(similarity: float) -> int:
    """Minima of a band: a pair at `similarity` shares one with a probability of 63 % or more."""
    sizes = range(_MINIMA, 0, -1)
    return next(s for s in sizes if (1 / (_MINIMA // s)) ** (1 / s) <= similarity or s == 1)


def _texts(table: pa.Table) -> pa.ChunkedArray:
    options = pc.binary_join(
        pc.fill_null(table["options"], pa.scalar([], pa.list_(pa.string()))), "\n"
    )
    context = pc.fill_null(table["context"], "")
    return pc.binary_join_element_wise(table["question"], context, options, "\n")


def _mixed(words: npt.NDArray[np.uint64], band: int) -> npt.NDArray[np.uint64]:
    """64 bits of the words of a band and of which band it is."""
    mixed = np.full(len(words), band + 1, np.uint64)
    for word in words.T:
        mixed = (mixed ^ word) * _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    return mixed * _MULTIPLIER
