"""Which examples a step sees, which worker computes which, and the tensors it computes them from.

All of it is a pure function of the seed, so every worker plans for all of them and nothing is
communicated. The composition of a global batch never depends on the number of workers, the size of
the micro-batches or the packing: only the order of its additions does.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from semievol_ray.tokens import shared_opening
from semievol_ray.training.token_cache import TokenizedExamples

if TYPE_CHECKING:
    import torch

Indices = npt.NDArray[np.int64]


class Sequence(NamedTuple):
    """One prompt and the candidates that are read after it, each as if the others were not there.

    `length` counts the tokens that are read; the last one of a candidate is only predicted.
    """

    example: int
    candidates: tuple[int, ...]
    length: int


class Layout(NamedTuple):
    """How sequences become forward passes.

    Packed: one row of at most `micro_batch_size * max_length` tokens, each sequence blind to the
    others, a prompt read once for all its candidates and, if `shares_opening`, what all prompts of
    the row open with (a system message, an instruction) read once for all of them. Padded: at most
    `micro_batch_size` rows, one candidate each, filled up to the longest.
    """

    packed: bool
    micro_batch_size: int
    max_length: int
    shares_opening: bool = True


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: B rows of T tokens, N answer tokens to predict.

    A packed pass is one row and carries `segments` and `branches`, int64 (1, T): a token sees the
    earlier tokens of its own segment that are of branch 0 (the prompt) or of its own branch (its
    candidate). The first `opening` tokens of the row are those that every segment's prompt begins
    with: they see one another, and every token sees them.
    """

    input_ids: torch.Tensor  # int64 (B, T)
    position_ids: torch.Tensor  # int64 (B, T), from 0 in every sequence
    attention_mask: torch.Tensor | None  # int64 (B, T), padded layout
    segments: torch.Tensor | None  # int64 (B, T), packed layout
    branches: torch.Tensor | None  # int64 (B, T), packed layout
    rows: torch.Tensor  # int64 (N,): the row whose logits predict the token
    columns: torch.Tensor  # int64 (N,): and their column
    targets: torch.Tensor  # int64 (N,): the token's id
    weights: torch.Tensor  # float32 (N,)
    tokens: int  # that are computed
    opening: int = 0

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in vars(self).items()}
        return MicroBatch(**moved)


def steps_per_epoch(examples: int, global_batch_size: int) -> int:
    """Optimizer steps that see every example once; the last batch may be smaller."""
    return math.ceil(examples / global_batch_size)


def total_steps(examples: int, global_batch_size: int, epochs: float) -> int:
    """Optimizer steps of a training; a fraction of an epoch is rounded up to a step."""
    return max(1, math.ceil(epochs * steps_per_epoch(examples, global_batch_size) - 1e-9))


def batch_of_step(step: int, examples: int, global_batch_size: int, seed: int) -> Indices:
    """Positions of the examples of the step-th global batch (0-based), in shuffled order."""
    epoch, place = divmod(step, steps_per_epoch(examples, global_batch_size))
    order = _order(seed, epoch, examples)
    return order[place * global_batch_size : (place + 1) * global_batch_size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> Indices:
    return np.random.default_rng([seed, epoch]).permutation(examples)


def plan(
    data: TokenizedExamples, batch: Indices, layout: Layout, workers: int
) -> list[list[list[Sequence]]]:
    """Who computes what: [worker][forward pass][sequence]; every worker has as many passes.

    ZeRO's collectives need that, so a pass may be empty: `collate` makes it one of weight 0.
    """
    if layout.packed:
        return _plan_packed(_sequences(data, batch, share_prompt=True), layout, workers)
    return _plan_padded(_sequences(data, batch, share_prompt=False), layout, workers)


def _sequences(data: TokenizedExamples, batch: Indices, *, share_prompt: bool) -> list[Sequence]:
    found = []
    for example in batch.tolist():
        prompt = len(data.prompt(example))
        lengths = {c: len(data.candidate(c)) - 1 for c in data.candidates_of(example)}
        if share_prompt and prompt:
            found.append(Sequence(example, tuple(lengths), prompt + sum(lengths.values())))
        else:
            found += [Sequence(example, (c,), prompt + n) for c, n in lengths.items()]
    return sorted(found, key=lambda s: -s.length)


def _plan_packed(
    sequences: list[Sequence], layout: Layout, workers: int
) -> list[list[list[Sequence]]]:
    budget = max(layout.micro_batch_size * layout.max_length, sequences[0].length)
    passes = math.ceil(sum(s.length for s in sequences) / (workers * budget))
    while True:
        # Longest first into the emptiest bin: near the best balance there is.
        bins: list[list[Sequence]] = [[] for _ in range(workers * passes)]
        filled = [0] * len(bins)
        for sequence in sequences:
            emptiest = filled.index(min(filled))
            bins[emptiest].append(sequence)
            filled[emptiest] += sequence.length
        if max(filled) <= budget:
            return [bins[worker::workers] for worker in range(workers)]
        passes += 1


def _plan_padded(
    sequences: list[Sequence], layout: Layout, workers: int
) -> list[list[list[Sequence]]]:
    passes = math.ceil(len(sequences) / (workers * layout.micro_batch_size))
    bounds = np.linspace(0, len(sequences), workers * passes + 1).round().astype(int)
    chunks = [sequences[a:b] for a, b in itertools.pairwise(bounds)]
    return [chunks[worker::workers] for worker in range(workers)]


def exact_matches(
    data: TokenizedExamples, sequences: list[Sequence], right: npt.NDArray[np.bool_]
) -> int:
    """Examples of a pass whose weightiest answer has all of its tokens right.

    `right` tells of each answer token of the pass, in its order. The weightiest is that of the
    largest share, however long it is: a share is the weight of each of a candidate's tokens.
    """
    found, start = 0, 0
    for sequence in sequences:
        known = 0 if len(data.prompt(sequence.example)) else 1
        best = max(data.candidates_of(sequence.example), key=lambda c: data.token_weights(c).max())
        for candidate in sequence.candidates:
            weights = data.token_weights(candidate)[known:]
            tokens = right[start : start + len(weights)]
            found += int(candidate == best and bool(tokens[weights > 0].all()))
            start += len(weights)
    return found


def collate(
    data: TokenizedExamples, sequences: list[Sequence], layout: Layout, pad_id: int
) -> MicroBatch:
    """The tensors of one forward pass, on the CPU."""
    if not sequences:
        return _empty_pass(pad_id, packed=layout.packed)
    pieces = [_Piece(data, sequence) for sequence in sequences]
    if not layout.packed:
        return _pad(pieces, pad_id)
    return _pack(pieces, _opening(pieces) if layout.shares_opening else 0)


class _Piece:
    """One sequence as flat arrays; `columns` count from its own first token."""

    def __init__(self, data: TokenizedExamples, sequence: Sequence) -> None:
        prompt = data.prompt(sequence.example)
        ids, positions = [prompt], [np.arange(len(prompt))]
        branches, columns, targets, weights = [np.zeros(len(prompt), np.int64)], [], [], []
        start = len(prompt)
        for branch, c in enumerate(sequence.candidates, start=1):
            answer = data.candidate(c)
            read = len(answer) - 1
            ids.append(answer[:-1])
            positions.append(np.arange(len(prompt), len(prompt) + read))
            branches.append(np.full(read, branch))
            # Token t of the answer is predicted at token t - 1, the first at the prompt's end.
            predicted_at = np.concatenate([[len(prompt) - 1], np.arange(start, start + read)])
            known = 0 if len(prompt) else 1
            columns.append(predicted_at[known:])
            targets.append(answer[known:])
            weights.append(data.token_weights(c)[known:])
            start += read
        self.prompt_tokens = len(prompt)
        self.ids = np.concatenate(ids).astype(np.int64)
        self.positions = np.concatenate(positions)
        self.branches = np.concatenate(branches)
        self.columns = np.concatenate(columns)
        self.targets = np.concatenate(targets).astype(np.int64)
        self.weights = np.concatenate(weights).astype(np.float32)


def _opening(pieces: list[_Piece]) -> int:
    """How many tokens that all prompts begin with are read once (see `shared_opening`).

    0 too where a long row would have the attention pad most: it is given a padded row a sequence.
    """
    lengths = [len(piece.ids) for piece in pieces]
    if max(lengths) * len(pieces) > 2 * sum(lengths):
        return 0
    prompts = [piece.ids[: piece.prompt_tokens] for piece in pieces]
    return shared_opening(prompts, [len(piece.ids) - piece.prompt_tokens for piece in pieces])


def _pack(pieces: list[_Piece], opening: int) -> MicroBatch:
    import torch

    lengths = [len(p.ids) - opening for p in pieces]
    starts = np.cumsum([0, *lengths[:-1]])
    columns = np.concatenate([p.columns + s for p, s in zip(pieces, starts, strict=True)])
    first = pieces[0]
    return MicroBatch(
        input_ids=_row([first.ids[:opening], *(p.ids[opening:] for p in pieces)]),
        position_ids=_row([first.positions[:opening], *(p.positions[opening:] for p in pieces)]),
        attention_mask=None,
        segments=_row([np.zeros(opening, np.int64), np.repeat(np.arange(len(pieces)), lengths)]),
        branches=_row([first.branches[:opening], *(p.branches[opening:] for p in pieces)]),
        rows=torch.zeros(len(columns), dtype=torch.int64),
        columns=torch.from_numpy(columns),
        targets=torch.from_numpy(np.concatenate([p.targets for p in pieces])),
        weights=torch.from_numpy(np.concatenate([p.weights for p in pieces])),
        tokens=opening + sum(lengths),
        opening=opening,
    )


def _pad(pieces: list[_Piece], pad_id: int) -> MicroBatch:
    import torch

    lengths = [len(p.ids) for p in pieces]
    shape = (len(pieces), max(lengths))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
        mask[row, : len(piece.ids)] = 1
    rows = np.repeat(np.arange(len(pieces)), [len(p.columns) for p in pieces])
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.arange(shape[1]).expand(shape),
        attention_mask=torch.from_numpy(mask),
        segments=None,
        branches=None,
        rows=torch.from_numpy(rows),
        columns=torch.from_numpy(np.concatenate([p.columns for p in pieces])),
        targets=torch.from_numpy(np.concatenate([p.targets for p in pieces])),
        weights=torch.from_numpy(np.concatenate([p.weights for p in pieces])),
        tokens=sum(lengths),
    )


def _empty_pass(pad_id: int, *, packed: bool) -> MicroBatch:
    import torch

    one, zero = torch.ones((1, 1), dtype=torch.int64), torch.zeros((1, 1), dtype=torch.int64)
    return MicroBatch(
        input_ids=one * pad_id,
        position_ids=zero,
        attention_mask=None if packed else one,
        segments=zero if packed else None,
        branches=zero if packed else None,
        rows=zero[0],
        columns=zero[0],
        targets=one[0] * pad_id,
        weights=torch.zeros(1),
        tokens=0,
    )


def _row(arrays: list[npt.NDArray[np.int64]]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.concatenate(arrays))[None]
