"""Candidates scored by a model of transformers: behind cached prompts, wave after wave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from semievol_ray.engines.candidates import Search, Tokens, Tree

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


def run_whole(model: Any, prefix: Prefix, prompts: list[list[int]], searches: list[Search]) -> None:
    """The same for models whose attention takes no mask of ours.

    Every candidate that is wanted runs behind its prompt again, as many at a time as their logits
    have room.
    """
    vocabulary = prefix.logits.shape[-1]
    for prompt, search in zip(prompts, searches, strict=True):
        tree = search.tree
        logprobs: dict[Tokens, list[float]] = {}
        while wave := search.wanted():
            begun = [tree.beginnings[node] for node in wave]
            new = [b for b in begun if b not in logprobs]
            # Of each a candidate that goes on behind it; several may be the same one's.
            tails = [*{next(t for t in tree.candidates if _goes_on(t, b)): None for b in new}]
            longest = max(map(len, tails), default=1)
            most = max(1, _SCORED_LOGITS // (longest * vocabulary))
            for part in (tails[i : i + most] for i in range(0, len(tails), most)):
                logprobs |= _behind(model, prompt, part, tree)
            for node, beginning in zip(wave, begun, strict=True):
                search.tell(node, logprobs[beginning])


def _goes_on(candidate: Tokens, beginning: Tokens) -> bool:
    return len(candidate) > len(beginning) and candidate[: len(beginning)] == beginning


def _behind(
    model: Any, prompt: list[int], tails: list[Tokens], tree: Tree
) -> dict[Tokens, list[float]]:
    """log P of what may follow each beginning of some candidates of a prompt."""
    import torch

    # The last token of a candidate is only predicted, and its first by the prompt's own pass.
    read = max(map(len, tails)) - 1
    ids = torch.zeros(len(tails), len(prompt) + read, dtype=torch.long)
    places: dict[Tokens, tuple[int, int]] = {}
    for line, tokens in enumerate(tails):
        ids[line, : len(prompt) + len(tokens) - 1] = torch.tensor([*prompt, *tokens[:-1]])
        for at in range(1, len(tokens)):
            places.setdefault(tokens[:at], (line, at - 1))
    out = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=read)
    lines, columns = zip(*places.values(), strict=True)
    following = dict(zip(tree.beginnings, tree.following, strict=True))
    rows = out.logits[:, -read:][list(lines), list(columns)]
    taken = _logprobs(rows, [following[begun] for begun in places])
    return dict(zip(places, taken, strict=True))


def tell(searches: Sequence[Search], waves: Sequence[Sequence[int]], logits: Any) -> None:
    """Tell each search what may follow what it wanted: logits (rows, wave, vocabulary)."""
    told = [(row, at) for row, wave in enumerate(waves) for at in range(len(wave))]
    if not told:
        return
    following = [searches[row].tree.following[waves[row][at]] for row, at in told]
    rows, at = zip(*told, strict=True)
    # Of those places alone that hold something.
    taken = _logprobs(logits[list(rows), list(at)], following)
    for (row, place), logprobs in zip(told, taken, strict=True):
        searches[row].tell(waves[row][place], logprobs)


def _logprobs(logits: Any, following: Sequence[Tokens]) -> list[list[float]]:
    """log P of the tokens that may follow, by logits (places, vocabulary), in float32."""
    import torch

    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    places = [place for place, tokens in enumerate(following) for _ in tokens]
    taken = iter(logprobs[places, [token for row in following for token in row]].tolist())
    return [list(islice(taken, len(tokens))) for tokens in following]
