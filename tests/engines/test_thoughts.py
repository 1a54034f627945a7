"""Thoughts and answers told apart: texts, tokens and logprobs, under each model's own tokenizer."""

from __future__ import annotations

import asyncio

import pytest

from semievol_ray.config import ModelConfig
from semievol_ray.demo.model import make_llama
from semievol_ray.engines import Request, Sampling
from semievol_ray.engines.thoughts import ResponseReader, Written, part
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.tasks import PromptRenderer
from tests.engines.asking import generate, options
from tests.tasks.chat_models import CHAT_MODELS, make_tokenizer

MESSAGES = [{"role": "user", "content": "Which one?"}]
# A prompt that asks for a thought, as it ends, and what the model then writes.
THINKING = {
    "qwen3": (
        "<|im_start|>assistant\n", "<think>\nA? The answer is A.\n</think>\n\nB. Paris<|im_end|>"
    ),
    "deepseek-r1-distill": (
        "<｜Assistant｜><think>\n", "A? The answer is A.\n</think>\n\nB. Paris<｜end▁of▁sentence｜>"
    ),
    "gpt-oss": (
        "<|start|>assistant",
        "<|channel|>analysis<|message|>A? The answer is A.<|end|><|start|>assistant"
        "<|channel|>final<|message|>B. Paris<|return|>",
    ),
}  # fmt: skip


def read(name: str, prompt: str, text: str) -> tuple[dict, list[int], object]:
    tokenizer = make_tokenizer(name)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    logprobs = [-float(i) for i in range(len(ids))]
    (row,) = ResponseReader(tokenizer).rows([Written(prompt, ids, logprobs, "stop", 7, len(ids))])
    return row, ids, tokenizer


@pytest.mark.parametrize("name", THINKING)
def test_a_thought_its_answer_and_the_logprobs_of_each(name) -> None:
    end, text = THINKING[name]
    prompt = PromptRenderer(make_tokenizer(name), thinks=True).render(MESSAGES)
    assert prompt.endswith(end)
    row, ids, tokenizer = read(name, prompt, text)
    assert (row["text"], row["rationale"]) == ("B. Paris", "A? The answer is A.")
    answer = row["token_logprobs"]
    # Each token is in one of the two; the answer's are those of its words and its end.
    assert [*row["rationale_logprobs"], *answer] == [-float(i) for i in range(len(ids))]
    assert row["tokens"] == len(ids)
    assert tokenizer.decode(ids[-len(answer) :]) == "B. Paris" + CHAT_MODELS[name].end


@pytest.mark.parametrize("name", THINKING)
def test_an_unclosed_thought_is_no_answer(name) -> None:
    end, text = THINKING[name]
    thought = text[: text.index("is A.") + 5]
    row, ids, _ = read(name, f"Q{end}", thought)
    assert (row["text"], row["token_logprobs"]) == (None, None)
    assert row["rationale"] == "A? The answer is A."
    assert len(row["rationale_logprobs"]) == row["tokens"] == len(ids)


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_a_bare_answer_stays_as_it_is(name) -> None:
    """So does one behind the empty thought that the prompt holds."""
    prompt = PromptRenderer(make_tokenizer(name)).render(MESSAGES)
    row, ids, _ = read(name, prompt, f"B. Paris{CHAT_MODELS[name].end}")
    assert (row["text"], row["rationale"], row["rationale_logprobs"]) == ("B. Paris", None, None)
    assert len(row["token_logprobs"]) == len(ids)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<thinking>A, 14</thinking>B", "A, 14", "B"),
        ("<thought>\nA\n</thought>\nB", "A", "B"),
        ("<reasoning>A</reasoning>\n<answer>B</answer>", "A", "<answer>B</answer>"),
        ("<seed:think>A</seed:think>B", "A", "B"),
        ("◁think▷A◁/think▷B", "A", "B"),
        ("<|begin_of_thought|>A<|end_of_thought|>\n\nB", "A", "B"),
        ("\n <think>A, 14", "A, 14", None),
        (
            "<answer>B</answer>\n<reasoning>A</reasoning>",
            None,
            "<answer>B</answer>\n<reasoning>A</reasoning>",
        ),
        ("<think>A</think>B\n<reasoning>C</reasoning>", "A", "B\n<reasoning>C</reasoning>"),
        (
            "<think>Asked for <reasoning>..</reasoning>. So B",
            "Asked for <reasoning>..</reasoning>. So B",
            None,
        ),
        ("Sure! <think>It may be A", "Sure! It may be A", None),
        ("<think>What is <think>?</think>B", "What is <think>?", "B"),
        ("First.\n<think>A", "First.\nA", None),
    ],
)
def test_every_way_to_mark_a_thought(text, thought, answer) -> None:
    found = part(text)
    assert (found.thought, found.answer) == (thought, answer)


def test_marks_that_are_no_tokens_are_read_as_well() -> None:
    row, ids, tokenizer = read("llama-3.1", "Q", "<think>A, 14.1</think>\n\n The capital")
    assert (row["text"], row["rationale"]) == ("The capital", "A, 14.1")
    assert tokenizer.decode(ids[-len(row["token_logprobs"]) :]).lstrip() == "The capital"


def test_the_last_mark_counts_and_a_reopened_thought_is_open() -> None:
    assert part("<think>a</think>b<think>c</think> d").answer == "d"
    assert part("<think>a</think>b<think>c").answer is None
    assert part("a</think>").answer == ""
    assert part("no mark at all") == (None, "no mark at all", 0)


def test_an_engine_asked_behind_an_open_thought_gives_no_vote_where_it_stays_open(tmp_path) -> None:
    """A random model closes nothing: all it says is a thought."""
    import torch

    tokenizer = make_tokenizer("deepseek-r1-distill")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    make_llama(len(tokenizer), hidden=32, layers=1, heads=2, context=256).save_pretrained(tmp_path)
    engine = TransformersEngine(ModelConfig(name=str(tmp_path)), options())
    renderers = [PromptRenderer(engine.tokenizer, thinks=thinks) for thinks in (True, False)]
    asked = [Request(r.render(MESSAGES), 3, chat=True) for r in renderers]
    open_, bare = asyncio.run(generate(engine, asked, Sampling(1, 1, 12))).to_pylist()
    assert open_["text"] is None and open_["rationale"]
    assert bare["text"] and bare["rationale"] is None
    assert len(open_["rationale_logprobs"]) == open_["tokens"]
