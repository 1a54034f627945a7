"""Engine over vLLM: continuous batching, prefix cache, many LoRA adapters at once.

vLLM schedules; requests are only handed over and gathered. Its nested dicts of logprobs are
reduced to float lists here and go no further.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.credentials import resolve
from semievol_ray.engines.candidates import Search, tree_of
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Batch,
    Engine,
    EngineOptions,
    Replies,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.engines.stopping import cut
from semievol_ray.engines.thoughts import ResponseReader, Written
from semievol_ray.engines.vllm_drivers import ProcessDriver, ThreadDriver
from semievol_ray.engines.vllm_sizes import check_fits, footprint, memory_share
from semievol_ray.model_files import check_adapter, check_model_exists, load_tokenizer
from semievol_ray.tokens import Tokens

T = TypeVar("T")

_MAX_ADAPTERS = 8
# Those that vLLM has room for.
_ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class _Answer(NamedTuple):
    """What became of one request; ids and logprobs are null where there is no response."""

    finish_reason: str
    # Of the text: without the token that ended it, which `tokens` counts too.
    ids: list[int] | None = None
    logprobs: list[float] | None = None
    tokens: int = 0
    # Where it is more than the ids say: a stop string cuts through a token.
    text: str | None = None


class VllmEngine(Engine):
    """One vLLM engine; base and adapters share one set of weights."""

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        check_model_exists(model.name)
        self.tokenizer = load_tokenizer(model.name, model.revision, model.trust_remote_code)
        self.tokens = Tokens(self.tokenizer)
        self.reader = ResponseReader(self.tokenizer)
        on_cpu = not _has_gpu()
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # "auto" binds to physical cores by number, which a container may not own.
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            if options.tensor_parallel * options.pipeline_parallel == 1:
                os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import envs
        from vllm.engine.arg_utils import AsyncEngineArgs

        values: dict[str, Any] = {
            "model": model.name,
            "revision": model.revision,
            "dtype": "float32" if on_cpu and model.dtype == "auto" else model.dtype,
            "max_model_len": model.max_model_len,
            "trust_remote_code": model.trust_remote_code,
            "load_format": "safetensors",
            "tensor_parallel_size": options.tensor_parallel,
            "pipeline_parallel_size": options.pipeline_parallel,
            "enable_prefix_caching": True,
            # Captured graphs take minutes to make and pay only on a GPU.
            "enforce_eager": on_cpu,
            "disable_log_stats": True,
        }
        if on_cpu:
            # Where a prompt is computed in pieces, vLLM 0.32 rewinds the generator of a seeded
            # request, which CPU generators cannot: the engine would die.
            values["enable_chunked_prefill"] = False
            # Prompts are shared by blocks of this many tokens; the default, 128, is most of one.
            values["block_size"] = 32
        if _in_placement_group():
            # The group's bundles are on several nodes: a worker in each, as vLLM's Ray executor
            # puts them. Without it vLLM looks for all the GPUs in this process.
            values["distributed_executor_backend"] = "ray"
        if options.adapter_rank is not None:
            rank = next(r for r in _ADAPTER_RANKS if r >= options.adapter_rank)
            values |= {"enable_lora": True, "max_loras": 4, "max_lora_rank": rank,
                       "max_cpu_loras": _MAX_ADAPTERS}  # fmt: skip
        share = memory_share(options.gpus_per_replica, AsyncEngineArgs.gpu_memory_utilization)
        if share is not None and not on_cpu:
            values["gpu_memory_utilization"] = share
        arguments = AsyncEngineArgs(
            **(values | resolve(model.engine_options, "model.engine_options"))
        )
        if options.window is not None and arguments.max_model_len is None:
            # As much of the model's own window as the run needs.
            arguments.max_model_len = min(options.window, _own_window(arguments))
        if not on_cpu:
            _check_fits(model, arguments)
        driver = ProcessDriver if envs.VLLM_ENABLE_V1_MULTIPROCESSING else ThreadDriver
        self.driver = driver(arguments)
        self.max_model_len = self.driver.max_model_len
        self._adapters: dict[str, Any] = {}

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer.

        A row's requests are handed over one behind the other: the prefix cache still holds its
        prompt, however many rows there are.
        """
        lora, prompts = self._lora(batch.adapter), self._prompts(batch.requests)
        sampling, candidates, chats = (
            batch.sampling,
            batch.candidates,
            [r.chat for r in batch.requests],
        )
        tails = None
        if candidates is not None:
            tails = self.tokens.candidates(candidates, chats, batch.closed)
        choices = batch.choices

        async def row(at: int) -> tuple[_Answer | None, list[float] | None]:
            found = await asyncio.gather(
                _nothing() if sampling is None
                else self._generate(
                    prompts[at],
                    batch.requests[at],
                    sampling,
                    lora,
                    None if choices is None else choices[at],
                ),
                _nothing() if tails is None
                else self._score(prompts[at], tails[at], batch.negligible, lora),
            )  # fmt: skip
            self.answered += 1
            return found

        rows = await _by_prefix(prompts, row)
        answers = [answer for answer, _ in rows if answer is not None]
        return Replies(
            None if sampling is None else self._table(batch.requests, prompts, answers),
            None if tails is None else pa.array([scores for _, scores in rows], SCORES),
        )

    def pulse(self) -> int:
        """See Engine.pulse."""
        return self.beats + self.driver.steps

    async def close(self) -> None:
        """See Engine.close."""
        self.driver.shutdown()

    async def _generate(
        self,
        prompt: list[int],
        request: Request,
        sampling: Sampling,
        lora: Any,
        choices: Sequence[str] | None = None,
    ) -> _Answer:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        room = self.max_model_len - len(prompt)
        if room < sampling.needed_tokens:
            return _Answer("prompt_too_long")
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed,
            # Beside those of the model's own config, which vLLM knows.
            stop_token_ids=sorted(self.tokens.stops(request.chat)),
            top_k=sampling.top_k or 0,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            stop=list(sampling.stop),
            structured_outputs=(
                None if choices is None else StructuredOutputsParams(choice=list(choices))
            ),
            # The sampled token's alone, in one flat list.
            logprobs=0,
            flat_logprobs=True,
        )
        final = await self._last(prompt, parameters, lora)
        if final is None:
            return _Answer("engine_error")
        written = final.outputs[0]
        # Each position lists the sampled token first, and only that.
        logprobs = written.logprobs
        taken = [logprobs.logprobs[start] for start in logprobs.start_indices]
        ids, text = list(written.token_ids), None
        if isinstance(written.stop_reason, str):
            text, own = cut(self.tokenizer, ids, sampling.stop) or (None, len(ids))
        else:
            own = len(ids) - (written.finish_reason == "stop")
        answer = _Answer(written.finish_reason or "stop", ids[:own], taken[:own], len(ids), text)
        if choices is None:
            return answer
        own_ids, logprobs = await self._as_an_option(prompt, request, ids[:own], choices, lora)
        return answer._replace(ids=own_ids, logprobs=logprobs)

    def _table(
        self, requests: Sequence[Request], prompts: list[list[int]], answers: list[_Answer]
    ) -> pa.Table:
        """The GENERATION table; the texts are decoded here, all at once."""
        written = [
            Written(
                request.prompt,
                a.ids,
                a.logprobs or (),
                a.finish_reason,
                len(prompt),
                a.tokens,
                a.text,
            )
            for request, prompt, a in zip(requests, prompts, answers, strict=True)
            if a.ids is not None
        ]
        rows = iter(self.reader.rows(written))
        return pa.Table.from_pylist(
            [
                failed_generation(a.finish_reason, len(prompt)) if a.ids is None else next(rows)
                for prompt, a in zip(prompts, answers, strict=True)
            ],
            schema=GENERATION,
        )

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        """Their token ids: a fast tokenizer takes many texts on all its threads."""
        return self.tokens.prompts([r.prompt for r in requests], [r.chat for r in requests])

    async def _score(
        self, prompt: list[int], tails: list[list[int]], negligible: float, lora: Any
    ) -> list[float] | None:
        if len(prompt) + max(map(len, tails), default=1) + 1 > self.max_model_len:
            return None
        # Each beginning that counts is asked once for the logprobs of the tokens that may follow
        # it. The prompt itself is computed once; the prefix cache serves it to the rest. (The
        # logprobs of a prompt's own tokens would bypass that cache.)
        tree = tree_of(tuple(map(tuple, tails)))
        search = Search(tree, negligible)
        while wanted := search.wanted():
            found = await asyncio.gather(
                *(
                    self._next_logprobs(
                        [*prompt, *tree.beginnings[node]], tree.following[node], lora
                    )
                    for node in wanted
                )
            )
            for node, known in zip(wanted, found, strict=True):
                if known is None:
                    return None
                search.tell(node, [known[token] for token in tree.following[node]])
        return search.scores()

    async def _as_an_option(
        self, prompt: list[int], request: Request, ids: list[int], choices: Sequence[str], lora: Any
    ) -> tuple[list[int], list[float] | None]:
        """A guided response in the tokens that its text usually has, and the model's logprobs.

        vLLM's own logprobs are over what the grammar allows alone, and it may spell an option in
        tokens that nobody would write it in.
        """
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if text in choices:
            (ids,) = self.tokens.answers([text], [request.chat])
        found = await asyncio.gather(
            *(
                self._next_logprobs([*prompt, *ids[:at]], [token], lora)
                for at, token in enumerate(ids)
            )
        )
        known = [row for row in found if row is not None]
        if len(known) < len(ids):
            return ids, None
        return ids, [row[token] for row, token in zip(known, ids, strict=True)]

    async def _next_logprobs(
        self, prompt: list[int], tokens: Sequence[int], lora: Any
    ) -> dict[int, float] | None:
        """Logprobs of some next tokens after a prompt, from one generated token."""
        from vllm import SamplingParams
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as limit

        logprobs: dict[int, float] = {}
        for start in range(0, len(tokens), limit):
            asked = list(tokens[start : start + limit])
            parameters = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=asked)
            final = await self._last(prompt, parameters, lora)
            if final is None or not final.outputs[0].logprobs:
                return None
            position = final.outputs[0].logprobs[0]
            logprobs |= {token: position[token].logprob for token in asked}
        return logprobs

    async def _last(self, prompt: list[int], parameters: Any, lora: Any) -> Any:
        """The final output of one request; null where vLLM refuses the request itself."""
        from vllm.sampling_params import RequestOutputKind

        parameters.output_kind = RequestOutputKind.FINAL_ONLY
        # Token by token, where no stop string is looked for: `_table` does it once.
        parameters.detokenize = bool(parameters.stop)
        parameters.skip_clone = True  # it is this request's own
        final = await self.driver.run(prompt, parameters, lora)
        self.beats += 1
        return final

    def _lora(self, adapter: str | None) -> Any:
        if adapter is None:
            return None
        if adapter not in self._adapters:
            from vllm.lora.request import LoRARequest

            check_adapter(adapter)
            number = len(self._adapters) + 1
            self._adapters[adapter] = LoRARequest(f"adapter{number}", number, adapter)
        return self._adapters[adapter]


async def _by_prefix(prompts: list[list[int]], row: Callable[[int], Awaitable[T]]) -> list[T]:
    """`row(i)` of every prompt, in the order of the prompts.

    They are begun in the order of their tokens: prompts with one beginning (the instruction, the
    same demonstrations) come one behind the other, while the prefix cache still holds it.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    found = dict(zip(order, await asyncio.gather(*map(row, order)), strict=True))
    return [found[at] for at in range(len(prompts))]


async def _nothing() -> None:
    """What comes of what is not asked."""


def _own_window(arguments: Any) -> int:
    """The longest sequence of the model itself, in tokens, as vLLM reads it from its config."""
    return int(arguments.create_model_config().max_model_len)


def _check_fits(model: ModelConfig, arguments: Any) -> None:
    """Raise UserError where the GPUs cannot hold the model.

    Not of a hub's, whose files are not there yet, and not where the engine options make it smaller.
    """
    from vllm.platforms import current_platform

    folder = Path(model.name).expanduser()
    is_as_stored = arguments.quantization is None and arguments.kv_cache_dtype == "auto"
    if folder.is_dir() and is_as_stored and not arguments.cpu_offload_gb:
        check_fits(
            model.name,
            footprint(folder, model.dtype),
            tokens=arguments.max_model_len or _own_window(arguments),
            gpu_bytes=current_platform.get_device_total_memory(),
            utilization=arguments.gpu_memory_utilization,
            gpus=arguments.tensor_parallel_size * arguments.pipeline_parallel_size,
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _in_placement_group() -> bool:
    import ray

    return ray.is_initialized() and ray.util.get_current_placement_group() is not None
