"""One rule from messages to token ids: what training, scoring and generation see is one thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest

from semievol_ray.config import TaskConfig
from semievol_ray.errors import UserError
from semievol_ray.schema import TRAINING
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import Target, training_table
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.tasks import PromptRenderer, Task
from semievol_ray.tokens import Tokens
from semievol_ray.training.data import tokenize
from tests.stages.ingesting import ingest
from tests.tasks.chat_models import CHAT_MODELS, make_tokenizer

TASK = Task.from_config(TaskConfig(preset="mmlu"))
EXAMPLE = {
    "example_id": "e",
    "question": "Which one is the capital of France?",
    "options": ["London", "Paris", "Rome"],
    "answer": "B",
}
SHOWN = EXAMPLE | {"question": "Which team answers?", "answer": "C"}
CONVERSATIONS = [TASK.messages(EXAMPLE), TASK.messages(EXAMPLE, [SHOWN, SHOWN])]
ANSWERS = ["A", "B", "C", "14.1%", "New York City", "card", "card lost", "1,234", "Ünïcode"]
DAY = "2026-03-09"


@pytest.fixture(scope="module", params=CHAT_MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name):
    return make_tokenizer(name)


def whole_of(tokenizer, messages, answer, tokenize=True):
    """What transformers makes of a conversation that ends with an answer."""
    return tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": answer}],
        tokenize=tokenize,
        return_dict=False,
        strftime_now=date.fromisoformat(DAY).strftime,
    )


def ids_of(tokenizer, messages, answer):
    """Prompt, answer and end under our rule."""
    renderer, tokens = PromptRenderer(tokenizer, day=DAY), Tokens(tokenizer)
    (prompt,) = tokens.prompts([renderer.render(messages)], [True])
    (ids,) = tokens.answers([renderer.completion(answer)], [True])
    return prompt, ids, tokens.end(True)


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["bare", "shown"])
def test_prompt_answer_and_end_are_the_templates_token_for_token(name, tokenizer, messages):
    for answer in ANSWERS:
        prompt, ids, end = ids_of(tokenizer, messages, answer)
        whole = whole_of(tokenizer, messages, answer)
        ours = [*prompt, *ids, *end]
        assert whole[: len(ours)] == ours
        # Nothing but a new line may follow: no end of a turn is left out.
        assert not tokenizer.decode(whole[len(ours) :]).strip()
        assert tokenizer.decode(end) == CHAT_MODELS[name].end
        assert tokenizer.decode(ids).strip() == answer


def test_the_loss_sees_the_answer_and_its_end_alone(tokenizer):
    renderer = PromptRenderer(tokenizer, day=DAY)
    rows = [(EXAMPLE, Target.hard("B")), (SHOWN, Target([*"ABC"], [0.5, 0.25, 0.25]))]
    batch = tokenize(training_table(TASK, renderer, rows), tokenizer, 4096).to_pylist()
    for (example, target), row in zip(rows, batch, strict=True):
        assert not row["truncated"]
        for letter, share, ids, weights in zip(
            target.candidates, target.weights, row["candidates"], row["weights"], strict=True
        ):
            whole = whole_of(tokenizer, TASK.messages(example), letter)
            assert whole[: len(row["prompt"]) + len(ids)] == [*row["prompt"], *ids]
            assert weights == [share] * len(ids)


def test_option_letters_differ_in_one_token_that_the_prompt_does_not_hold(tokenizer):
    renderer, tokens = PromptRenderer(tokenizer, day=DAY), Tokens(tokenizer)
    letters = [renderer.completion(letter) for letter in "ABC"]
    (open_, closed) = (tokens.candidates([letters], [True], end)[0] for end in (False, True))
    assert len({tuple(ids) for ids in open_}) == 3
    assert {len(ids) for ids in open_} == {len(open_[0])}
    assert [[*ids, *tokens.end(True)] for ids in open_] == closed
    # They share all but the last: that one is the letter.
    assert {tuple(ids[:-1]) for ids in open_} == {tuple(open_[0][:-1])}


def test_generation_stops_where_the_template_ends_a_turn_and_at_eos(name, tokenizer):
    model = CHAT_MODELS[name]
    stops = Tokens(tokenizer).stops(True)
    assert stops == {tokenizer.convert_tokens_to_ids(t) for t in (model.end, model.eos)}


@pytest.mark.parametrize("eos_added", [False, True], ids=["open", "closing"])
def test_plain_text_is_opened_never_closed_and_has_no_seam(name, eos_added):
    model = CHAT_MODELS[name]
    tokenizer = make_tokenizer(name, replace(model, eos_added=eos_added))
    renderer, tokens = PromptRenderer(tokenizer, "never"), Tokens(tokenizer)
    prompt = renderer.render(CONVERSATIONS[1])
    (head,) = tokens.prompts([prompt], [False])
    for answer in ANSWERS:
        text = renderer.completion(answer)
        (tail,) = tokens.answers([text], [False])
        whole = tokenizer(prompt + text).input_ids
        assert [*head, *tail] == (whole[:-1] if eos_added else whole)
    assert tokens.end(False) == [tokenizer.eos_token_id]
    bos = [tokenizer.bos_token_id] if model.bos_added else []
    assert head[: len(bos)] == bos
    if bos:  # One that opens with it already is not opened twice.
        assert tokens.prompts([model.bos + "x"], [False])[0][:2].count(bos[0]) == 1


@pytest.mark.parametrize("eos_added", [False, True])
def test_a_rendered_prompt_gets_no_special_token(name, eos_added):
    model = CHAT_MODELS[name]
    bos = model.bos or "<|endoftext|>"
    tokenizer = make_tokenizer(name, replace(model, bos=bos, bos_added=True, eos_added=eos_added))
    prompt, ids, end = ids_of(tokenizer, CONVERSATIONS[0], "B")
    whole = whole_of(tokenizer, CONVERSATIONS[0], "B")
    assert whole[: len(prompt) + len(ids) + len(end)] == [*prompt, *ids, *end]


def test_training_without_a_word_on_chat_is_plain_text():
    tokenizer = make_tokenizer("gemma-2")
    row = {"example_id": "e", "prompt": "Q:", "candidates": [" B"], "candidate_weights": [1.0],
           "weight": 1.0}  # fmt: skip
    (found,) = tokenize(pa.Table.from_pylist([row], TRAINING), tokenizer, 64).to_pylist()
    assert found["candidates"][0][-1] == tokenizer.eos_token_id
    assert found["prompt"][0] == tokenizer.bos_token_id


def test_always_without_a_template_is_one_line():
    tokenizer = make_tokenizer("qwen3")
    tokenizer.chat_template = None
    assert not PromptRenderer(tokenizer).chat
    with pytest.raises(UserError, match="always, but the tokenizer of qwen3 has no chat template"):
        PromptRenderer(tokenizer, "always")


@pytest.mark.parametrize("name", ["llama-3.2", "gpt-oss"])
def test_a_run_has_one_day_whatever_the_clock_says(name, tmp_path):
    renderer = PromptRenderer(make_tokenizer(name), day=DAY)
    assert renderer.render(CONVERSATIONS[0]).count("2026") == 1
    context = new_context(tmp_path, {})
    now = replace(context.ledger.done("ingest"), finished_at="2026-03-09T23:59:59Z")
    context.ledger._put(now)
    # Another process goes on with the run, days later.
    assert new_context(tmp_path, {}).task.day == DAY
    assert new_context(tmp_path, {"day": "2020-01-01"}).task.day == "2020-01-01"


def new_context(tmp_path, task) -> Context:
    labeled, corpus = tmp_path / "labeled.csv", tmp_path / "corpus.csv"
    labeled.write_text("text,label\na,x\nb,y\n")
    corpus.write_text("text,label\nc,\nd,\n")
    found = ingest(tmp_path, labeled, corpus, task={"kind": "label", **task})
    directory = RunDirectory(found.uri)
    return Context(found.config(), directory, StageLedger(directory))


def test_a_template_that_refuses_is_one_line():
    tokenizer = make_tokenizer("gemma-2")
    with pytest.raises(UserError, match=r"^gemma-2: its chat template .*: System role not supp.*"):
        PromptRenderer(tokenizer).render([{"role": "system", "content": "x"}])
    tokenizer.chat_template = "{{ messages[0].nothing.more }}"
    with pytest.raises(UserError, match="does not render the prompts: .*nothing"):
        PromptRenderer(tokenizer).render(CONVERSATIONS[0])
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match="leaves out the assistant's answer"):
        PromptRenderer(tokenizer).render(CONVERSATIONS[0])


def test_a_template_cannot_reach_into_python():
    tokenizer = make_tokenizer("qwen3")
    tokenizer.chat_template = "{{ messages.__class__.__mro__ }}"
    with pytest.raises(UserError, match="does not render the prompts: .*unsafe"):
        PromptRenderer(tokenizer).render(CONVERSATIONS[0])


def test_no_instruction_needs_a_system_turn(tokenizer):
    """Some templates refuse one, others have one of their own, which stays as it is."""
    for messages in (TASK.messages(EXAMPLE, [SHOWN]), TASK.justify_messages(EXAMPLE, ["A", "B"])):
        prompt = PromptRenderer(tokenizer, day=DAY).render(messages)
        assert prompt.count(TASK.instruction) == 1
