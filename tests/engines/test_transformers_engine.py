"""The transformers engine against transformers itself, on the demo's tiny Llama."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from semievol_ray import UserError
from semievol_ray.config import ModelConfig
from semievol_ray.demo.model import make_llama
from semievol_ray.engines import Batch, Request, Sampling, request_seed, scoring
from semievol_ray.engines.adapters import Adapters
from semievol_ray.engines.transformers_engine import TransformersEngine
from tests.engines.asking import generate, options, score_all
from tests.tasks.chat_models import make_tokenizer

PROMPTS = [
    "hello. the kettle does not switch on\nTeam:",
    "my parcel\nTeam:",
    "I was charged twice. many thanks. it was booked on Monday\nTeam:",
]


@pytest.fixture(scope="module")
def engine(tiny_model) -> TransformersEngine:
    return TransformersEngine(ModelConfig(name=str(tiny_model), engine="transformers"), options())


@pytest.fixture(scope="module")
def reference(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(tiny_model)


def requests(prompts=PROMPTS, collaborator="c") -> list[Request]:
    return [Request(p, request_seed(0, str(i), collaborator)) for i, p in enumerate(prompts)]


def test_greedy_text_and_logprobs_are_the_models_own(engine, reference) -> None:
    model, tokenizer = reference
    found = asyncio.run(generate(engine, requests(), Sampling(0, 1, 12)))
    for prompt, row in zip(PROMPTS, found.to_pylist(), strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        wanted = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert row["text"] == tokenizer.decode(wanted, skip_special_tokens=True)
        whole = torch.cat([ids[0], wanted])[None]
        logprobs = torch.log_softmax(model(whole).logits[0].float(), -1)
        taken = logprobs[ids.shape[1] - 1 : -1].gather(1, wanted[:, None])[:, 0]
        assert row["tokens"] == len(wanted)
        own = len(wanted) - (row["finish_reason"] == "stop")
        assert row["token_logprobs"] == pytest.approx(taken.tolist()[:own], abs=1e-4)


def test_a_response_depends_on_its_seed_alone(engine) -> None:
    sampling = Sampling(1.0, 0.95, 16)
    together = asyncio.run(generate(engine, requests(PROMPTS * 5), sampling))
    alone = [
        asyncio.run(generate(engine, [request], sampling)).to_pylist()[0]["text"]
        for request in requests(PROMPTS * 5)
    ]
    assert together["text"].to_pylist() == alone
    assert len(set(alone)) > 3, "different seeds gave the same texts"


def test_sampling_follows_the_distribution(engine, reference) -> None:
    model, tokenizer = reference
    count = 2000
    many = [Request(PROMPTS[0], request_seed(0, str(i), "x")) for i in range(count)]
    found = asyncio.run(generate(engine, many, Sampling(1.0, 1.0, 1)))
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    p = torch.softmax(model(ids).logits[0, -1].float(), -1)
    best = int(p.argmax())
    share = sum(t == tokenizer.decode([best]) for t in found["text"].to_pylist()) / count
    spread = 4 * math.sqrt(p[best] * (1 - p[best]) / count)
    assert share == pytest.approx(float(p[best]), abs=spread)


@pytest.mark.parametrize("closed", [False, True])
def test_scores_are_the_models_logprobs_of_each_candidate(engine, reference, closed) -> None:
    model, tokenizer = reference
    candidates = [[" billing", " delivery was late", " x"], [" sales"], [" account", " technical"]]
    found = asyncio.run(score_all(engine, requests(), candidates, closed=closed)).to_pylist()
    for prompt, row, scores in zip(PROMPTS, candidates, found, strict=True):
        for text, score in zip(row, scores, strict=True):
            head = tokenizer(prompt)["input_ids"]
            tail = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if closed else [])
            logprobs = torch.log_softmax(model(torch.tensor([head + tail])).logits[0], -1)
            wanted = sum(float(logprobs[len(head) - 1 + i, t]) for i, t in enumerate(tail))
            assert score == pytest.approx(wanted, abs=1e-3)


def test_rows_that_are_done_leave_the_others_as_they_are(engine) -> None:
    """Where half of a batch wants no more, the rest goes on without it."""
    prompts = [*PROMPTS, *(f"{prompt} and more of it" for prompt in PROMPTS)]
    done, going_on = [" x"], [f" {name} was late and it was {name}" for name in ("bill", "sale")]
    candidates = [going_on if row in (1, 4) else done for row in range(len(prompts))]
    together = asyncio.run(score_all(engine, requests(prompts), candidates)).to_pylist()
    for prompt, row, scores in zip(prompts, candidates, together, strict=True):
        alone = asyncio.run(score_all(engine, requests([prompt]), [row])).to_pylist()
        assert scores == pytest.approx(alone[0], abs=1e-3)


@pytest.mark.parametrize("negligible", [1e-2, 0.3])
def test_what_is_negligible_is_not_computed_exactly(engine, monkeypatch, negligible) -> None:
    """In batches of rows whose trees and likely candidates differ."""
    names = ["billing", "bills", "delivery", "delivery was late", "x", "account", "accounts sales"]
    candidates = [[f" {name}" for name in names[i:]] for i in (0, 2, 1)]
    exact = asyncio.run(score_all(engine, requests(), candidates, closed=True)).to_pylist()
    read, forward = [], engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **k: (read.append(k["input_ids"].numel()), forward(**k))[1]
    )
    batch = Batch(requests(), candidates=candidates, closed=True)
    asyncio.run(engine.answer(batch))
    whole, read[:] = sum(read), []
    found = asyncio.run(engine.answer(replace(batch, negligible=negligible))).scores.to_pylist()
    assert sum(read) < whole
    for ours, row in zip(found, exact, strict=True):
        least = max(row) + math.log(negligible)
        counts = [score >= least for score in row]
        assert not all(counts)
        for score, own, is_exact in zip(ours, row, counts, strict=True):
            assert score == pytest.approx(own, abs=1e-3) if is_exact else score < least


def test_a_base_model_too_stops_where_its_template_ends_a_turn(tmp_path) -> None:
    """Gemma's end of turn and Phi-4's are not their tokenizers' eos."""
    tokenizer = make_tokenizer("gemma-2")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    make_llama(len(tokenizer), hidden=32, layers=1, heads=2, context=512).save_pretrained(tmp_path)
    engine = TransformersEngine(ModelConfig(name=str(tmp_path)), options())
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")

    def written(chat):
        asked = [Request("hello", seed, chat=chat) for seed in range(24)]
        return asyncio.run(generate(engine, asked, Sampling(1, 1, 300))).to_pylist()

    stopped = [row for row in written(True) if row["finish_reason"] == "stop"]
    prompt = engine.tokens.prompts(["hello"], [False])
    assert stopped and prompt[0][0] == tokenizer.bos_token_id
    # Of 500 tokens three end a response, and two where it is no chat: it is longer there.
    tokens = [sum(row["tokens"] for row in written(chat)) for chat in (True, False)]
    assert tokens[0] < tokens[1]
    asked = [Request("hello", 1, chat=True)]
    scores = asyncio.run(score_all(engine, asked, [["A"]], closed=True))
    ids = engine.tokens.prompts(["hello"], [True])[0]
    tail = [*engine.tokens.answers(["A"], [True])[0], end]
    logprobs = torch.log_softmax(engine.model(torch.tensor([ids + tail])).logits[0].float(), -1)
    wanted = sum(float(logprobs[len(ids) - 1 + i, t]) for i, t in enumerate(tail))
    assert scores.to_pylist()[0][0] == pytest.approx(wanted, abs=1e-3)


def test_what_is_written_and_scored_at_once_is_what_each_is_alone(engine) -> None:
    candidates = [[" billing", " bills", " delivery was late"], [" sales"], [" account", " x"]]
    sampling = Sampling(1.0, 1.0, 6)
    both = asyncio.run(engine.answer(Batch(requests(), sampling, candidates, closed=True)))
    assert both.generated.equals(asyncio.run(generate(engine, requests(), sampling)))
    alone = asyncio.run(score_all(engine, requests(), candidates, closed=True))
    for ours, one in zip(both.scores.to_pylist(), alone.to_pylist(), strict=True):
        assert ours == pytest.approx(one, abs=1e-4)


def test_what_prompts_open_with_is_computed_once(engine, reference, monkeypatch) -> None:
    model, tokenizer = reference
    instruction = "Which team should answer this message? Say its name and nothing else.\n"
    prompts = [3 * instruction + prompt for prompt in PROMPTS]
    read, forward = [], engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **k: (read.append(k["input_ids"].numel()), forward(**k))[1]
    )
    batch = Batch(requests(prompts), Sampling(0, 1, 6), [[" billing", " x"]] * 3, closed=True)
    both = asyncio.run(engine.answer(batch))
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert read[0] + read[1] < 0.6 * sum(lengths)
    for prompt, row, scores in zip(
        prompts, both.generated.to_pylist(), both.scores.to_pylist(), strict=True
    ):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        wanted = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert row["text"] == tokenizer.decode(wanted, skip_special_tokens=True)
        tail = [*tokenizer(" billing")["input_ids"], tokenizer.eos_token_id]
        whole = torch.tensor([[*ids[0].tolist(), *tail]])
        logprobs = torch.log_softmax(model(whole).logits[0].float(), -1)
        taken = [float(logprobs[ids.shape[1] - 1 + i, t]) for i, t in enumerate(tail)]
        assert scores[0] == pytest.approx(sum(taken), abs=1e-3)


@pytest.fixture
def with_window(tiny_model, tmp_path) -> Path:
    """Its cache forgets what lies behind the window, so candidates cannot share it."""
    from transformers import MistralConfig, MistralForCausalLM

    return saved(
        tmp_path, tiny_model, MistralForCausalLM, MistralConfig,
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=6, max_position_embeddings=128,
    )  # fmt: skip


def saved(folder, tiny_model, model_class, config_class, **sizes) -> Path:
    """A model of another kind with the tiny one's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": 0, "pad_token_id": 1}
    config = config_class(vocab_size=len(tokenizer), **ends, **sizes)
    model_class(config).save_pretrained(folder)
    return folder


def check_scores(engine, candidates, found, prompts=PROMPTS, **loading) -> None:
    """Scores are sums of what the model itself says of each candidate alone."""
    folder, tokenizer = engine.tokenizer.name_or_path, engine.tokenizer
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **loading).eval()
    for prompt, row, scores in zip(prompts, candidates, found.to_pylist(), strict=True):
        head = tokenizer(prompt)["input_ids"]
        for text, score in zip(row, scores, strict=True):
            tail = tokenizer(text)["input_ids"]
            logprobs = torch.log_softmax(model(torch.tensor([head + tail])).logits[0], -1)
            wanted = sum(float(logprobs[len(head) - 1 + i, t]) for i, t in enumerate(tail))
            assert score == pytest.approx(wanted, abs=1e-3)


TEAMS = [[" billing", " bills", " delivery was late", " x"]] * 3


def test_a_model_with_a_window_scores_like_itself(with_window) -> None:
    engine = TransformersEngine(ModelConfig(name=str(with_window)), options())
    found = asyncio.run(engine.answer(Batch(requests(), Sampling(0, 1, 4), TEAMS))).scores
    check_scores(engine, TEAMS, found)


def test_a_candidate_that_another_begins_with_is_scored_whole_too(with_window) -> None:
    engine = TransformersEngine(ModelConfig(name=str(with_window)), options())
    # The shorter one first, and alone on its first token.
    begun = [[" billing", " billing team", " billing team now"]] * len(PROMPTS)
    found = asyncio.run(engine.answer(Batch(requests(), candidates=begun))).scores
    check_scores(engine, begun, found)


@pytest.mark.parametrize("negligible", [0.0, 1e-9])
def test_with_a_window_too_no_more_logits_are_held_than_have_room(
    with_window, monkeypatch, negligible
) -> None:
    engine = TransformersEngine(ModelConfig(name=str(with_window)), options())
    longest = max(len(engine.tokenizer(text)["input_ids"]) for text in TEAMS[0])
    room = 2 * longest * len(engine.tokenizer)
    monkeypatch.setattr(scoring, "_SCORED_LOGITS", room)
    held, forward = [], engine.model.forward

    def watched(**arguments):
        out = forward(**arguments)
        held.append(out.logits.numel())
        return out

    monkeypatch.setattr(engine.model, "forward", watched)
    batch = Batch(requests(), candidates=TEAMS, negligible=negligible)
    check_scores(engine, TEAMS, asyncio.run(engine.answer(batch)).scores)
    assert len(held) > 1 + len(PROMPTS) and max(held) <= room


def test_an_answer_that_just_fits_is_scored_whole_too(tiny_model, tmp_path) -> None:
    """A model that looks its positions up has none behind its last."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = " delivery was late"
    room = len(tokenizer(PROMPTS[1])["input_ids"]) + len(tokenizer(text)["input_ids"])
    folder = saved(tmp_path, tiny_model, GPT2LMHeadModel, GPT2Config, **sizes, n_positions=room)
    engine = TransformersEngine(ModelConfig(name=str(folder)), options())
    engine._takes_trees = False
    found = asyncio.run(score_all(engine, requests(PROMPTS[1:2]), [[text]])).to_pylist()
    assert found[0] is not None and found[0][0] < 0


@pytest.mark.parametrize("kind", ["Mpt", "Bloom", "Falcon"])
def test_a_model_that_counts_its_row_scores_like_itself(tiny_model, tmp_path, kind) -> None:
    """ALiBi is told no positions: what a tree holds between prompt and token would count."""
    import transformers

    sizes = {
        "Mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 128},
        "Bloom": {"hidden_size": 32, "n_head": 2, "n_layer": 2},
        "Falcon": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
                   "alibi": True},
    }[kind]  # fmt: skip
    model, config = (getattr(transformers, f"{kind}{part}") for part in ("ForCausalLM", "Config"))
    folder = saved(tmp_path, tiny_model, model, config, initializer_range=0.3, **sizes)
    engine = TransformersEngine(ModelConfig(name=str(folder)), options())
    assert kind != "Mpt" or engine.max_model_len == 128
    opening = "Which team should answer this message? Say its name and nothing else.\n"
    prompts = [opening + prompt for prompt in PROMPTS]
    sampling = Sampling(0, 1, 4)
    found = asyncio.run(engine.answer(Batch(requests(prompts), sampling, TEAMS)))
    check_scores(engine, TEAMS, found.scores, prompts)
    for request, row in zip(requests(prompts), found.generated.to_pylist(), strict=True):
        alone = asyncio.run(generate(engine, [request], sampling)).to_pylist()[0]
        assert row["text"] == alone["text"]


def test_a_cap_on_attention_scores_is_kept(tiny_model, tmp_path) -> None:
    """Torch's own attention has none."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "query_pre_attn_scalar": 1, "initializer_range": 0.3, "attn_logit_softcapping": 0.5,
    }  # fmt: skip
    folder = saved(tmp_path, tiny_model, Gemma2ForCausalLM, Gemma2Config, **sizes)
    engine = TransformersEngine(ModelConfig(name=str(folder)), options())
    found = asyncio.run(score_all(engine, requests(), TEAMS))
    check_scores(engine, TEAMS, found, attn_implementation="eager")
    with pytest.raises(AssertionError):
        check_scores(engine, TEAMS, found, attn_implementation="sdpa")


def test_a_model_without_a_key_value_cache_is_refused_in_one_line(tiny_model, tmp_path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    folder = saved(tmp_path, tiny_model, MambaForCausalLM, MambaConfig, **sizes)
    with pytest.raises(UserError, match=r"MambaForCausalLM has none; choose engine") as caught:
        TransformersEngine(ModelConfig(name=str(folder)), options())
    assert "\n" not in str(caught.value)


def test_the_token_that_ends_a_response_is_none_of_its_own(ending_model) -> None:
    engine = TransformersEngine(ModelConfig(name=str(ending_model)), options())
    found = asyncio.run(generate(engine, requests(), Sampling(0, 1, 12))).to_pylist()
    assert found[0] | {"text": "", "finish_reason": "stop", "tokens": 1, "token_logprobs": []} \
        == found[0]  # fmt: skip
    assert all(len(r["token_logprobs"]) == r["tokens"] - (r["finish_reason"] == "stop")
               for r in found)  # fmt: skip


def test_a_response_ends_before_a_stop_string(engine) -> None:
    free = asyncio.run(generate(engine, requests(), Sampling(0, 1, 12))).to_pylist()
    whole = next(row for row in free if len(row["text"]) > 4)
    at = free.index(whole)
    stop = whole["text"][3:5]
    found = asyncio.run(generate(engine, requests(), Sampling(0, 1, 12, stop=("~~", stop))))
    row = found.to_pylist()[at]
    assert row["text"] == whole["text"][: whole["text"].index(stop)]
    assert row["finish_reason"] == "stop"
    own = row["token_logprobs"]
    assert own == pytest.approx(whole["token_logprobs"][: len(own)], abs=1e-4)
    assert len(own) <= row["tokens"] <= whole["tokens"]


def test_a_guided_response_is_an_option_with_the_models_own_logprobs(engine) -> None:
    options_of = [[" billing", " delivery was late"], [" sales", " x"], [" account", " technical"]]
    sampling = Sampling(1.0, 1, 12)
    batch = Batch(requests(), sampling, options_of, choices=options_of)
    found = asyncio.run(engine.answer(batch))
    for row, texts, scores in zip(
        found.generated.to_pylist(), options_of, found.scores.to_pylist(), strict=True
    ):
        assert row["text"] in texts and row["finish_reason"] == "stop"
        assert sum(row["token_logprobs"]) == pytest.approx(
            scores[texts.index(row["text"])], abs=1e-3
        )


def test_an_over_long_prompt_costs_itself_alone(engine) -> None:
    prompts, before = ["word " * 600, PROMPTS[0]], engine.answered
    found = asyncio.run(generate(engine, requests(prompts), Sampling(0, 1, 4))).to_pylist()
    assert engine.answered == before + 2
    assert found[0]["finish_reason"] == "prompt_too_long" and found[0]["text"] is None
    assert found[1]["finish_reason"] in ("stop", "length") and found[1]["text"]
    scores = asyncio.run(score_all(engine, requests(prompts), [[" a"], [" a"]])).to_pylist()
    assert scores[0] is None and scores[1] is not None


def test_a_prompt_that_leaves_room_for_an_answer_is_answered(engine, reference) -> None:
    model, tokenizer = reference
    prompts = [("word " * 600), PROMPTS[0]]
    room = 4
    ids = tokenizer(prompts[0])["input_ids"][: engine.max_model_len - room]
    prompts[0] = tokenizer.decode(ids, skip_special_tokens=True)
    room = engine.max_model_len - len(tokenizer(prompts[0])["input_ids"])
    assert 2 <= room <= 8
    asked = requests(prompts)
    refused = asyncio.run(generate(engine, asked, Sampling(0, 1, 12))).to_pylist()
    assert refused[0]["finish_reason"] == "prompt_too_long"
    sampling = Sampling(0, 1, 12, least_tokens=2)
    found = asyncio.run(generate(engine, asked, sampling)).to_pylist()
    long, short = found
    # It ends where its room does, and the other one is as it is alone.
    assert long["finish_reason"] in ("stop", "length") and 0 < long["tokens"] <= room
    assert short["text"] == refused[1]["text"]
    assert short["token_logprobs"] == pytest.approx(refused[1]["token_logprobs"], abs=1e-4)
    greedy = model.generate(torch.tensor([tokenizer(prompts[0])["input_ids"]]), do_sample=False,
                            max_new_tokens=room)[0, -room:]  # fmt: skip
    assert long["text"] == tokenizer.decode(greedy[: long["tokens"]], skip_special_tokens=True)
    # Too little is none.
    least = replace(sampling, least_tokens=room + 1)
    assert asyncio.run(generate(engine, asked, least)).to_pylist()[0]["text"] is None


def test_a_response_with_little_room_outgrows_no_window(tiny_model, tmp_path) -> None:
    # Beside a shorter prompt it would: GPT-Neo's masks end where its positions do.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_layers=2, num_heads=2,
        attention_types=[[["global"], 2]], max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine(ModelConfig(name=str(tmp_path), engine="transformers"), options())
    ids = tokenizer("word " * 100)["input_ids"][:58]
    prompts = [tokenizer.decode(ids, skip_special_tokens=True), "my", PROMPTS[1]]
    sampling = Sampling(1, 1, 30, least_tokens=2)
    together = asyncio.run(generate(engine, requests(prompts), sampling)).to_pylist()
    room = 64 - len(tokenizer(prompts[0])["input_ids"])
    assert 2 <= together[0]["tokens"] <= room < 30
    alone = asyncio.run(generate(engine, requests(prompts)[:1], sampling)).to_pylist()
    assert together[0]["text"] == alone[0]["text"]


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory) -> list[str]:
    """Folders of two adapters that change what the model says."""
    from peft import LoraConfig, get_peft_model

    folders = []
    for number in (1, 2):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        folders.append(str(tmp_path_factory.mktemp("adapter")))
        get_peft_model(base, config).save_pretrained(folders[-1])
    return folders


def first_scores(engine, adapter: str | None) -> list[list[float]]:
    return asyncio.run(score_all(engine, requests(), [[" sales"]] * 3, adapter)).to_pylist()


@pytest.mark.parametrize("merges", [True, False])
def test_adapters_are_switched_and_the_base_stays_itself(tiny_model, adapters, merges) -> None:
    engine = TransformersEngine(ModelConfig(name=str(tiny_model)), options())
    engine._adapters = Adapters(engine.model, merges=merges)
    before = first_scores(engine, None)
    by_adapter = [first_scores(engine, folder) for folder in adapters]
    assert by_adapter[0] != by_adapter[1] != before
    assert first_scores(engine, None) == before
    assert first_scores(engine, adapters[0]) == by_adapter[0]


def test_merged_or_not_an_adapter_says_the_same(tiny_model, adapters) -> None:
    engine = TransformersEngine(ModelConfig(name=str(tiny_model)), options())
    found = []
    for merges in (True, False):
        engine._adapters = Adapters(engine.model, merges=merges)
        found.append(first_scores(engine, adapters[0]))
    assert found[0] != first_scores(engine, None)
    for merged, switched in zip(*found, strict=True):
        assert merged == pytest.approx(switched, abs=1e-4)


def test_the_head_gets_its_states_in_one_piece(tiny_model) -> None:
    # Of a slice torch makes a product with a copy of frozen weights for each row.
    engine = TransformersEngine(ModelConfig(name=str(tiny_model), engine="transformers"), options())
    in_one_piece: list[bool] = []
    engine.model.get_output_embeddings().register_forward_pre_hook(
        lambda _, states: in_one_piece.append(states[0].is_contiguous())
    )
    asyncio.run(generate(engine, requests(), Sampling(0, 1, 2)))
    assert in_one_piece and all(in_one_piece)


def test_missing_models_and_pickled_adapters_are_refused(tiny_model, tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        TransformersEngine(ModelConfig(name="./none/such"), options())
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    engine = TransformersEngine(ModelConfig(name=str(tiny_model)), options())
    with pytest.raises(UserError, match="pickles are not loaded"):
        asyncio.run(generate(engine, requests(), Sampling(0, 1, 1), str(tmp_path)))
