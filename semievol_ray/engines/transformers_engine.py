"""Engine over transformers: left-padded batches, KV cache, a seed for every request.

A batch's prompts are computed once, for what is generated after them and for what is scored, and
what all of them open with once for the batch.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import signature
from itertools import groupby
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.credentials import resolve
from semievol_ray.engines.adapters import Adapters
from semievol_ray.engines.candidates import Search, tree_of
from semievol_ray.engines.candidates import Tokens as Ids
from semievol_ray.engines.protocol import (
    Batch,
    Engine,
    EngineOptions,
    Replies,
    Sampling,
    failed_generation,
)
from semievol_ray.engines.sampling import Sampler
from semievol_ray.engines.scoring import Prefix, run_trees, run_whole, tell
from semievol_ray.engines.stopping import cut
from semievol_ray.engines.thoughts import ResponseReader, Written
from semievol_ray.errors import UserError
from semievol_ray.model_files import load_causal_lm, load_tokenizer, obeys_positions, positions
from semievol_ray.ray_session import has_gpu
from semievol_ray.tokens import Tokens, shared_opening


@dataclass
class _Response:
    """A response as it grows, to so many tokens at most."""

    room: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = "length"
    text: str | None = None  # where a stop string cut it

    @property
    def is_open(self) -> bool:
        return self.finish_reason == "length" and self.tokens < self.room

    def take(self, token: int, logprob: float, *, ends: bool) -> None:
        """One more token; the one that ends the text is none of its own."""
        self.tokens += 1
        if ends:
            self.finish_reason = "stop"
            return
        self.ids.append(token)
        self.logprobs.append(logprob)

    def stop_at(self, found: tuple[str, int] | None) -> None:
        """The end before a stop string (see `stopping.cut`), where one is found."""
        if found is not None:
            self.text, own = found
            self.finish_reason = "stop"
            del self.ids[own:], self.logprobs[own:]

    def written(self, prompt: str, prompt_tokens: int) -> Written:
        """All of it."""
        return Written(
            prompt,
            self.ids,
            self.logprobs,
            self.finish_reason,
            prompt_tokens,
            self.tokens,
            self.text,
        )


class TransformersEngine(Engine):
    """One causal LM of transformers, on the GPU that its replica was given, if any."""

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        import torch

        torch.set_num_threads(options.threads)
        self.tokenizer = load_tokenizer(model.name, model.revision, model.trust_remote_code)
        self.tokens = Tokens(self.tokenizer)
        self.reader = ResponseReader(self.tokenizer)
        self.device = torch.device("cuda" if has_gpu() else "cpu")
        # Half precision is slower than float32 on most CPUs, and no more exact anywhere.
        dtype = model.dtype
        if dtype == "auto" and self.device.type == "cpu":
            dtype = "float32"
        loaded = load_causal_lm(
            model.name,
            revision=model.revision,
            dtype=dtype,
            trust_remote_code=model.trust_remote_code,
            **resolve(model.engine_options, "model.engine_options"),
        )
        if "past_key_values" not in signature(loaded.forward).parameters:
            raise UserError(
                f"model {model.name}: engine: transformers needs a key-value cache, and a "
                f"{type(loaded).__name__} has none; choose engine: vllm, or another model"
            )
        self.model: Any = loaded.to(self.device).eval()
        head = self.model.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(_contiguous)
        limit = positions(self.model.config) or 2**20
        self.max_model_len = min(model.max_model_len or limit, limit)
        self.batch_rows = options.batch_rows
        self._takes_trees = _takes_trees(self.model, self.max_model_len)
        self._adapters = Adapters(self.model, merges=self.device.type == "cpu")
        self._busy = asyncio.Lock()  # `model` is the one that answers the batch at hand

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        async with self._busy:
            return await asyncio.to_thread(self._answer, batch)

    async def close(self) -> None:
        """See Engine.close."""
        del self.model, self._adapters

    # -- batches -----------------------------------------------------------------------------------

    def _answer(self, batch: Batch) -> Replies:
        base = self.model
        with self._adapters.using(batch.adapter) as self.model:
            try:
                return self._reply(batch)
            finally:
                self.model = base  # holds on to no copy that an adapter was merged into

    def _reply(self, batch: Batch) -> Replies:
        """A request whose prompt leaves no room for its answer gets a failed row and a null."""
        requests, sampling, candidates = batch.requests, batch.sampling, batch.candidates
        chats = [request.chat for request in requests]
        prompts = self.tokens.prompts([request.prompt for request in requests], chats)
        tails: list[tuple[Ids, ...]] = [()] * len(requests)
        if candidates is not None:
            found_tails = self.tokens.candidates(candidates, chats, batch.closed)
            tails = [tuple(map(tuple, row)) for row in found_tails]
        choices = None
        if batch.choices is not None:
            found_tails = self.tokens.candidates(batch.choices, chats, True)
            choices = [tuple(map(tuple, row)) for row in found_tails]
        rows = [failed_generation("prompt_too_long", len(ids)) for ids in prompts]
        scores: list[list[float] | None] = [None] * len(requests)
        written = 0 if sampling is None else sampling.needed_tokens
        fits = [
            i
            for i, ids in enumerate(prompts)
            if len(ids) + max(written, max(map(len, tails[i]), default=0)) <= self.max_model_len
        ]
        self.answered += len(requests) - len(fits)
        for part in self._batches(fits, prompts, 0 if sampling is None else sampling.max_tokens):
            self.beats += 1
            ids = [prompts[i] for i in part]
            prefix = self._prefill(ids)
            if sampling is not None:
                chosen = None if choices is None else [choices[i] for i in part]
                seeds = [requests[i].seed for i in part]
                sampler = Sampler(sampling, ids, seeds, chosen, self.device)
                stops = [self._stop_ids(requests[i].chat) for i in part]
                rooms = [self.max_model_len - len(prompt) for prompt in ids]
                grown = self._continue(prefix, sampler, sampling, stops, rooms)
                responses = [
                    said.written(requests[i].prompt, len(prompts[i]))
                    for i, said in zip(part, grown, strict=True)
                ]
                for index, row in zip(part, self.reader.rows(responses), strict=True):
                    rows[index] = row
            if candidates is not None:
                searches = [Search(tree_of(tails[i]), batch.negligible) for i in part]
                found = self._score_batch(prefix, ids, searches)
                for index, score in zip(part, found, strict=True):
                    scores[index] = score
            self.answered += len(part)
        return Replies.of(batch, zip(rows, scores, strict=True))

    def _batches(
        self, indices: list[int], prompts: list[list[int]], tokens: int
    ) -> Iterator[list[int]]:
        """Indices in batches of like lengths, so that little of a batch is padding.

        Prompts that leave room for fewer than `tokens` are in batches of one length: with shorter
        ones, whose responses go on, they would outgrow the window.
        """
        ordered = sorted(indices, key=lambda i: (len(prompts[i]), i))
        free = bisect_right(
            ordered, self.max_model_len - tokens, key=lambda i: len(prompts[i])
        )  # fmt: skip
        like = [ordered[:free]]
        like += [list(same) for _, same in groupby(ordered[free:], key=lambda i: len(prompts[i]))]
        for part in like:
            for start in range(0, len(part), self.batch_rows):
                yield part[start : start + self.batch_rows]

    # -- generation --------------------------------------------------------------------------------

    def _continue(
        self,
        prefix: Prefix,
        sampler: Sampler,
        sampling: Sampling,
        stops: list[set[int]],
        rooms: list[int],
    ) -> list[_Response]:
        """The response to each prompt of one batch, each of so many tokens at most."""
        import torch

        responses = [_Response(room) for room in rooms]
        logits, mask, positions = prefix.logits, prefix.mask, prefix.positions
        with torch.inference_mode():
            for step in range(sampling.max_tokens):
                self.beats += 1
                raw = torch.log_softmax(logits.float(), dim=-1)
                token = sampler.draw(logits)
                taken = raw.gather(1, token[:, None])[:, 0].tolist()
                drawn = zip(responses, stops, token.tolist(), taken, strict=True)
                for response, ends, one, logprob in drawn:
                    if response.is_open:
                        response.take(one, logprob, ends=one in ends)
                        if sampling.stop:
                            response.stop_at(cut(self.tokenizer, response.ids, sampling.stop))
                if step + 1 == sampling.max_tokens or not any(r.is_open for r in responses):
                    break
                mask = torch.cat([mask, mask.new_ones(len(responses), 1)], dim=1)
                positions = positions + 1
                out = self.model(
                    input_ids=token[:, None],
                    attention_mask=mask,
                    position_ids=positions[:, None],
                    past_key_values=prefix.cache,
                    use_cache=True,
                )
                prefix.grown += 1
                logits = out.logits[:, -1]
        return responses

    def _prefill(self, prompts: list[list[int]]) -> Prefix:
        """Run the prompts of one batch: what all open with once, the rest padded on the left."""
        import torch

        opening = shared_opening(prompts) if self._takes_trees else 0
        width = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id
        if padding is None:
            padding = self.tokenizer.eos_token_id
        ids = torch.full((len(prompts), width), padding, device=self.device)
        mask = torch.zeros((len(prompts), width), dtype=torch.long, device=self.device)
        mask[:, :opening] = 1
        for row, prompt in enumerate(prompts):
            rest = torch.tensor(prompt[opening:], device=self.device)
            ids[row, width - len(rest) :] = rest
            mask[row, width - len(rest) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = None
        with torch.inference_mode():
            if opening:
                head = torch.tensor([prompts[0][:opening]], device=self.device)
                cache = self.model(input_ids=head, use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(len(prompts))
            out = self.model(
                input_ids=ids[:, opening:],
                attention_mask=mask,
                position_ids=positions[:, opening:],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return Prefix(out.logits[:, -1], out.past_key_values, mask, positions[:, -1])

    # -- scoring -----------------------------------------------------------------------------------

    def _score_batch(
        self, prefix: Prefix, prompts: list[list[int]], searches: list[Search]
    ) -> list[list[float]]:
        """Sums of token logprobs of each prompt's candidates."""
        import torch

        with torch.inference_mode():
            tell(searches, [[0]] * len(searches), prefix.logits[:, None])
            if self._takes_trees:
                run_trees(self.model, prefix, searches)
            else:
                run_whole(self.model, prefix, prompts, searches)
            self.beats += 1
        return [search.scores() for search in searches]

    # -- shared ------------------------------------------------------------------------------------

    def _stop_ids(self, chat: bool) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        stops = configured if isinstance(configured, list) else [configured]
        return {i for i in stops if i is not None} | self.tokens.stops(chat)


def _contiguous(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head's input in one piece.

    Of a slice, as the last positions of a batch are, torch makes a batched product where the
    weights are frozen, as they are under an adapter: with a copy of the vocabulary for each row.
    """
    return (states[0].contiguous(), *states[1:])


def _takes_trees(model: Any, max_model_len: int) -> bool:
    """Whether the model attends as a mask and positions of ours say, over all of its cache."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or max_model_len
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        config._attn_implementation in ("sdpa", "eager")
        and not getattr(model, "_is_stateful", False)
        and obeys_positions(model)
        and kinds <= {"full_attention", "sliding_attention"}
        and window >= max_model_len
    )
