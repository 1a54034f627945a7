"""Engine over transformers: left-padded batches, KV cache, a seed for every request.

Sampling is ours and not `model.generate`'s: there, one random stream serves the whole batch, so
that a response would depend on its neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.errors import SemiEvolError
from semievol_ray.model_files import check_adapter, check_model_exists, load_tokenizer

# Rows of (prompt, candidate) that one scoring pass holds behind the cached prompts.
_SCORED_ROWS = 512


class TransformersEngine:
    """One causal LM of transformers, on the GPU where there is one."""

    def __init__(
        self,
        model: ModelConfig,
        *,
        batch_rows: int = 64,
        adapters: bool = False,
        threads: int | None = None,
        **_: Any,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        check_model_exists(model.name)
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = load_tokenizer(model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Half precision is slower than float32 on most CPUs, and no more exact anywhere.
        dtype = model.dtype
        if dtype == "auto" and self.device.type == "cpu":
            dtype = "float32"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model.name,
            revision=model.revision,
            dtype=dtype,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            **model.engine_options,
        )
        self.model: Any = loaded.to(self.device).eval()
        limit = getattr(self.model.config, "max_position_embeddings", None) or 2**20
        self.max_model_len = min(model.max_model_len or limit, limit)
        self.batch_rows = batch_rows
        self._adapters: dict[str, str] = {}
        self._busy = asyncio.Lock()  # which adapter is on is a property of the one model

    # -- the two verbs -----------------------------------------------------------------------------

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """See Engine.generate."""
        async with self._busy:
            return await asyncio.to_thread(self._generate, requests, sampling, adapter)

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """See Engine.score."""
        async with self._busy:
            return await asyncio.to_thread(self._score, requests, candidates, adapter, closed)

    async def close(self) -> None:
        """See Engine.close."""
        del self.model

    # -- generation --------------------------------------------------------------------------------

    def _generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None
    ) -> pa.Table:
        prompts = [self.tokenizer(r.prompt)["input_ids"] for r in requests]
        rows: list[dict[str, Any]] = [{} for _ in requests]
        room = self.max_model_len - sampling.max_tokens
        for index, ids in enumerate(prompts):
            if len(ids) > room:
                rows[index] = failed_generation("prompt_too_long", len(ids))
        with self._using(adapter):
            for batch in self._batches([i for i, row in enumerate(rows) if not row], prompts):
                seeds = [requests[i].seed for i in batch]
                written = self._continue([prompts[i] for i in batch], seeds, sampling)
                for index, (ids, logprobs, reason) in zip(batch, written, strict=True):
                    rows[index] = {
                        "text": self.tokenizer.decode(ids, skip_special_tokens=True),
                        "finish_reason": reason,
                        "prompt_tokens": len(prompts[index]),
                        "tokens": len(ids),
                        "token_logprobs": logprobs,
                    }
        return pa.Table.from_pylist(rows, schema=GENERATION)

    def _continue(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling
    ) -> list[tuple[list[int], list[float], str]]:
        """Token ids, their logprobs and the finish reason of each prompt of one batch."""
        import torch

        stops = self._stop_ids()
        # A request's whole randomness is drawn beforehand, from its own stream.
        uniforms = torch.tensor(
            np.stack(
                [np.random.Generator(np.random.Philox(s)).random(sampling.max_tokens)
                 for s in seeds]
            ),
            device=self.device,
        )  # fmt: skip
        ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        reasons = ["length"] * len(prompts)
        alive = torch.ones(len(prompts), dtype=torch.bool)
        with torch.inference_mode():
            logits, cache, mask, positions = self._prefill(prompts)
            for step in range(sampling.max_tokens):
                raw = torch.log_softmax(logits.float(), dim=-1)
                token = _draw(raw, sampling, uniforms[:, step])
                taken = raw.gather(1, token[:, None])[:, 0].tolist()
                for row, (drawn, logprob) in enumerate(zip(token.tolist(), taken, strict=True)):
                    if not alive[row]:
                        continue
                    ids[row].append(drawn)
                    logprobs[row].append(logprob)
                    if drawn in stops:
                        reasons[row] = "stop"
                        alive[row] = False
                if step + 1 == sampling.max_tokens or not alive.any():
                    break
                mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
                positions = positions + 1
                out = self.model(
                    input_ids=token[:, None],
                    attention_mask=mask,
                    position_ids=positions[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
                logits, cache = out.logits[:, -1], out.past_key_values
        return list(zip(ids, logprobs, reasons, strict=True))

    def _prefill(self, prompts: list[list[int]]) -> tuple[Any, Any, Any, Any]:
        """Logits after each prompt [rows, vocabulary], the cache, the mask, last positions."""
        import torch

        width = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id
        if padding is None:
            padding = self.tokenizer.eos_token_id
        ids = torch.full((len(prompts), width), padding, device=self.device)
        mask = torch.zeros((len(prompts), width), dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=self.device)
            mask[row, width - len(prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], out.past_key_values, mask, positions[:, -1]

    # -- scoring -----------------------------------------------------------------------------------

    def _score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None,
        closed: bool,
    ) -> pa.Array:
        end = [self.tokenizer.eos_token_id] if closed else []
        prompts = [self.tokenizer(r.prompt)["input_ids"] for r in requests]
        continuations = [
            [self.tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in row]
            for row in candidates
        ]
        scores: list[list[float] | None] = [None] * len(requests)
        fits = [
            i
            for i, prompt in enumerate(prompts)
            if len(prompt) + max(map(len, continuations[i]), default=0) <= self.max_model_len
        ]
        widest = max((len(row) for row in candidates), default=1)
        with self._using(adapter):
            for batch in self._batches(fits, prompts, max(1, _SCORED_ROWS // max(widest, 1))):
                found = self._score_batch(
                    [prompts[i] for i in batch], [continuations[i] for i in batch]
                )
                for index, row in zip(batch, found, strict=True):
                    scores[index] = row
        return pa.array(scores, SCORES)

    def _score_batch(
        self, prompts: list[list[int]], candidates: list[list[list[int]]]
    ) -> list[list[float]]:
        """Sums of token logprobs; the prompt runs once, the candidates behind its cache."""
        import torch

        counts = [len(row) for row in candidates]
        flat = [ids for row in candidates for ids in row]
        owner = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(
            self.device
        )
        with torch.inference_mode():
            logits, cache, mask, positions = self._prefill(prompts)
            first = torch.log_softmax(logits.float(), dim=-1)
            heads = torch.tensor([ids[0] for ids in flat], device=self.device)
            total = first[owner, heads]
            width = max(map(len, flat))
            if width > 1:
                ids = torch.zeros((len(flat), width), dtype=torch.long, device=self.device)
                real = torch.zeros((len(flat), width), dtype=torch.long, device=self.device)
                for row, candidate in enumerate(flat):
                    ids[row, : len(candidate)] = torch.tensor(candidate, device=self.device)
                    real[row, : len(candidate)] = 1
                cache.batch_select_indices(owner)
                steps = torch.arange(1, width, device=self.device)
                out = self.model(
                    input_ids=ids[:, :-1],
                    attention_mask=torch.cat([mask[owner], real[:, :-1]], dim=1),
                    position_ids=positions[owner][:, None] + steps[None, :],
                    past_key_values=cache,
                    use_cache=True,
                )
                rest = torch.log_softmax(out.logits.float(), dim=-1)
                rest = rest.gather(2, ids[:, 1:, None])[:, :, 0] * real[:, 1:]
                total = total + rest.sum(dim=1)
        values = iter(total.tolist())
        return [[next(values) for _ in range(count)] for count in counts]

    # -- shared ------------------------------------------------------------------------------------

    def _batches(
        self, indices: list[int], prompts: list[list[int]], rows: int | None = None
    ) -> Iterator[list[int]]:
        """Indices in batches of like lengths, so that little of a batch is padding."""
        rows = min(self.batch_rows, rows or self.batch_rows)
        ordered = sorted(indices, key=lambda i: (len(prompts[i]), i))
        for start in range(0, len(ordered), rows):
            yield ordered[start : start + rows]

    def _stop_ids(self) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        stops = configured if isinstance(configured, list) else [configured]
        return {i for i in [*stops, self.tokenizer.eos_token_id] if i is not None}

    @contextlib.contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        """The model with one adapter switched on, or with none."""
        if adapter is None:
            if not self._adapters:
                yield
                return
            with self.model.disable_adapter():
                yield
            return
        self._load_adapter(adapter)
        self.model.set_adapter(self._adapters[adapter])
        yield

    def _load_adapter(self, folder: str) -> None:
        if folder in self._adapters:
            return
        check_adapter(folder)
        from peft import PeftModel

        name = f"adapter{len(self._adapters)}"
        try:
            if self._adapters:
                self.model.load_adapter(folder, adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name)
        except (OSError, ValueError) as error:
            message = " ".join(str(error).split())
            raise SemiEvolError(f"{folder}: adapter cannot be loaded: {message}") from error
        self.model.eval()
        self._adapters[folder] = name


def _draw(logprobs: Any, sampling: Sampling, uniforms: Any) -> Any:
    """One token a row [rows, vocabulary] -> [rows], by inverting the cumulative distribution."""
    import torch

    if sampling.temperature == 0:
        return logprobs.argmax(dim=-1)
    probabilities = torch.softmax(logprobs.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    cumulative = probabilities.cumsum(dim=-1)
    wanted = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(
        max=logprobs.shape[-1] - 1
    )
