"""Candidates scored by a model of transformers: behind cached prompts, wave after wave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from semievol_ray.engines.candidates import Search

# Logits that one scoring pass may hold: 1 GiB of float32.
_SCORED_LOGITS = 2**28
# Beginnings of a row that are worth a pass of their own.
_NARROWEST = 8


@dataclass
class Prefix:
    """The prompts of one batch, computed: what generation and scoring go on from."""

    logits: Any  # (rows, vocabulary): after each prompt
    cache: Any
    mask: Any  # (rows, width): 0 where there is padding
    positions: Any  # (rows,): of each prompt's last token
    grown: int = 0  # tokens that generation has put into the cache since


def run_trees(model: Any, prefix: Prefix, searches: list[Search]) -> None:
    """Compute what the searches want, wave after wave, all of it behind the cached prompt."""
    import torch

    if prefix.grown:
        prefix.cache.crop(-prefix.grown)
        prefix.grown = 0
    device = prefix.logits.device
    cache, mask, positions = prefix.cache, prefix.mask.bool(), prefix.positions
    # Behind each row's prompt the beginnings that the cache holds; -1: there is none.
    cached = np.zeros((len(searches), 0), np.int64)
    while any(waves := _waves(searches, prefix.logits.shape[-1])):
        open_rows = [row for row, wave in enumerate(waves) if wave]
        if len(open_rows) <= len(searches) / 2:
            # The others are done: what is left is computed without them.
            chosen = torch.tensor(open_rows, device=device)
            cache.batch_select_indices(chosen)
            mask, positions, cached = mask[chosen], positions[chosen], cached[open_rows]
            searches = [searches[row] for row in open_rows]
            waves = [waves[row] for row in open_rows]
        width = max(map(len, waves))
        cached = np.pad(cached, ((0, 0), (0, width)), constant_values=-1)
        ids, depths = np.zeros((2, len(searches), width), np.int64)
        sees = np.zeros((*ids.shape, cached.shape[1]), bool)
        for row, (search, wave) in enumerate(zip(searches, waves, strict=True)):
            begun, count = [search.tree.beginnings[node] for node in wave], len(wave)
            ids[row, :count], depths[row, :count] = [b[-1] for b in begun], [*map(len, begun)]
            cached[row, -width:][:count] = wave
            sees[row, :count] = search.tree.sees[wave][:, cached[row]] & (cached[row] >= 0)
        # A place without a beginning sees itself: no row of the mask may be empty.
        sees[:, :, -width:] |= np.eye(width, dtype=bool)
        prompt = mask[:, None, :].expand(-1, width, -1)
        seen = torch.cat([prompt, torch.from_numpy(sees).to(device)], dim=2)[:, None]
        out = model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.zeros_like(seen, dtype=prefix.logits.dtype).masked_fill(
                ~seen, torch.finfo(prefix.logits.dtype).min
            ),
            position_ids=positions[:, None] + torch.from_numpy(depths).to(device),
            past_key_values=cache,
            use_cache=True,
        )
        tell(searches, waves, out.logits)


def _waves(searches: list[Search], vocabulary: int) -> list[list[int]]:
    """What each search wants next, of those that want much a part: the others would wait."""
    most = max(1, _SCORED_LOGITS // (len(searches) * vocabulary))
    waves = [search.wanted(most) for search in searches]
    counts = [len(wave) for wave in waves if wave]
    width = max(_NARROWEST, -(-sum(counts) // max(1, len(counts))))
    return [wave[:width] for wave in waves]


def run_whole(model: Any, prompts: list[list[int]], searches: list[Search]) -> None:
    """The same for models whose attention takes no mask of ours.

    Every candidate runs behind its prompt again.
    """
    import torch

    for prompt, search in zip(prompts, searches, strict=True):
        tails = search.tree.candidates
        ids = torch.zeros(len(tails), len(prompt) + max(map(len, tails), default=0) + 1)
        for line, tokens in enumerate(tails):
            ids[line, : len(prompt) + len(tokens)] = torch.tensor([*prompt, *tokens])
        out = model(input_ids=ids.long().to(model.device), use_cache=False)
        while wave := search.wanted():
            begun = [search.tree.beginnings[node] for node in wave]
            lines = [next(i for i, t in enumerate(tails) if t[: len(b)] == b) for b in begun]
            at = [len(prompt) - 1 + len(b) for b in begun]
            tell([search], [wave], out.logits[lines, at][None])


def tell(searches: Sequence[Search], waves: Sequence[Sequence[int]], logits: Any) -> None:
    """Tell each search what may follow what it wanted: logits (rows, wave, vocabulary)."""
    import torch

    told = [(row, at) for row, wave in enumerate(waves) for at in range(len(wave))]
    if not told:
        return
    following = [searches[row].tree.following[waves[row][at]] for row, at in told]
    places = [place for place, tokens in enumerate(following) for _ in tokens]
    rows, at = zip(*told, strict=True)
    # In float32; and of those places alone that hold something.
    logprobs = torch.log_softmax(logits[list(rows), list(at)], dim=-1, dtype=torch.float32)
    taken = iter(logprobs[places, [token for row in following for token in row]].tolist())
    for (row, place), tokens in zip(told, following, strict=True):
        searches[row].tell(waves[row][place], list(islice(taken, len(tokens))))
