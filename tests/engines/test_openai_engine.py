"""The openai engine against a small real HTTP server on loopback."""

from __future__ import annotations

import asyncio

import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.config import ModelConfig
from semievol_ray.engines import Batch, Request, Sampling
from semievol_ray.engines.openai_engine import OpenAIEngine, _changes
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.store import RunDirectory
from tests.engines.asking import generate, options, score_all
from tests.engines.server import THOUGHTS, Handler


def ask(model: ModelConfig, questions: list[str]) -> list[dict]:
    async def run():
        engine = OpenAIEngine(model, options(max_concurrency=4))
        requests = [Request(q, 1, ({"role": "user", "content": q},)) for q in questions]
        try:
            return await generate(engine, requests, Sampling(0.7, 0.9, 5))
        finally:
            await engine.close()

    return asyncio.run(run()).to_pylist()


def test_order_parameters_and_logprobs(model) -> None:
    questions = [f"q{i}" for i in range(12)]
    rows = ask(model, questions)
    assert [row["text"] for row in rows] == [f"B {q}" for q in questions]
    assert rows[0]["token_logprobs"] == pytest.approx([-0.1, -0.2])
    body = Handler.seen[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        0.7,
        0.9,
        5,
        1,
    )
    assert body["key"] == "Bearer sesame"


def test_a_busy_server_is_asked_again(model) -> None:
    Handler.behaviour = "busy"
    assert [row["finish_reason"] for row in ask(model, ["a", "b"])] == ["stop", "stop"]
    assert len(Handler.seen) == 4


def test_a_refused_request_costs_itself_alone(model) -> None:
    rows = ask(model, ["fine", "this is too long"])
    assert [row["finish_reason"] for row in rows] == ["stop", "prompt_too_long"]


def test_what_passes_costs_its_row_and_an_endpoint_that_is_down_the_run(model) -> None:
    rows = ask(model, ["fine", "this fails", "empty", "fine too"])
    reasons = [row["finish_reason"] for row in rows]
    assert reasons == ["stop", "request_failed", "request_failed", "stop"]
    Handler.behaviour = "down"
    with pytest.raises(SemiEvolError, match=r"HTTP 500 after retries, 16 times in a row.*is kept"):
        ask(model, [f"q{i}" for i in range(40)])


def answer_shard_with(engine, run: RunDirectory, rows: int) -> list[dict]:
    """As a stage makes a shard: the replies are kept until it is committed."""

    async def work():
        with keeping_paid_replies(engine, run, "generate/attempt-1/shard-00000.parquet") as asked:
            requests = [Request(f"q{i}", i) for i in range(rows)]
            batch = Batch(requests, Sampling(1, 1, 5), [["A", "B"]] * rows)
            return (await asked.answer(batch)).generated.to_pylist()

    return asyncio.run(work())


def test_a_reply_that_is_paid_for_is_never_asked_for_again(model, tmp_path) -> None:
    run = RunDirectory(str(tmp_path))
    whole = answer_shard_with(
        OpenAIEngine(model, options()), RunDirectory(str(tmp_path / "calm")), 100
    )
    Handler.seen.clear()
    Handler.dies_after = 57
    with pytest.raises(SemiEvolError, match="times in a row"):
        answer_shard_with(OpenAIEngine(model, options()), run, 100)
    paid = {body["messages"][-1]["content"] for body in Handler.seen[:57]}
    assert run.files("generate/attempt-1/replies/shard-00000", ".parquet")
    Handler.dies_after, Handler.seen = None, []
    # Another process, another time: only what is missing is asked for.
    assert answer_shard_with(OpenAIEngine(model, options()), run, 100) == whole
    again = {body["messages"][-1]["content"] for body in Handler.seen}
    assert not paid & again and len(again) == 100 - 57
    assert not run.files("generate/attempt-1/replies/shard-00000"), "the parts stayed behind"


def test_a_refused_key_and_missing_logprobs_are_one_line(model) -> None:
    Handler.behaviour = "locked"
    with pytest.raises(UserError, match="refuses the API key") as caught:
        ask(model, ["a"])
    assert "sesame" not in str(caught.value)
    Handler.behaviour = "mute"
    assert ask(model, ["a"])[0]["token_logprobs"] is None

    async def score():
        return await score_all(
            OpenAIEngine(model, options()), [Request("a", 1)] * 3, [["A", "B"]] * 3
        )

    with pytest.raises(UserError, match="returns no logprobs"):
        asyncio.run(score())
    Handler.behaviour = "fine"
    assert asyncio.run(score()).to_pylist()[0] == pytest.approx([-2.5, -0.1])


def test_one_request_gives_the_response_and_the_scores(model) -> None:
    """Prompts are what an endpoint is paid for: scoring must not send them twice."""

    async def answer(questions: list[str]):
        engine = OpenAIEngine(model, options())
        requests = [Request(q, 1) for q in questions]
        return await engine.answer(
            Batch(requests, Sampling(1, 1, 5), [["A", "B"]] * len(questions))
        )

    found = asyncio.run(answer(["q", "this is too long"]))
    table, scores = found.generated, found.scores
    assert len(Handler.seen) == 2
    assert table["text"].to_pylist() == ["B q", None]
    assert scores[0].as_py() == pytest.approx([-2.5, -0.1])
    assert scores[1].as_py() is None


@pytest.mark.parametrize("how", THOUGHTS)
def test_a_thought_is_told_from_the_answer_however_the_server_gives_it(model, how) -> None:
    Handler.behaviour = how
    (row,) = ask(model, ["q"])
    answered = "unclosed" not in how
    assert (row["text"], row["rationale"]) == ("B is" if answered else None, "A 14")
    count = len(THOUGHTS[how][0])
    if how == "other tokens":  # unknown is null, and not a guess
        assert row["token_logprobs"] is row["rationale_logprobs"] is None
    elif answered:
        assert [-x for x in row["token_logprobs"]] == list(range(count - 2, count))
        assert len(row["rationale_logprobs"]) == count - 2
    else:
        assert row["token_logprobs"] is None and len(row["rationale_logprobs"]) == count


def test_variables_of_the_template_reach_the_server_that_renders_it(model) -> None:
    model = model.model_copy(update={"engine_options": {"extra_body": {"min_p": 0.1}}})
    request = Request("q", 1, options={"enable_thinking": False})
    engine = OpenAIEngine(model, options())
    asyncio.run(generate(engine, [request, Request("q", 1)], Sampling(1, 1, 5)))
    bodies = sorted(Handler.seen, key=lambda body: "chat_template_kwargs" in body)
    assert "chat_template_kwargs" not in bodies[0]
    assert bodies[1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert [body["min_p"] for body in bodies] == [0.1, 0.1]


def test_requests_keep_to_the_rate(model) -> None:
    async def ask_slowly() -> float:
        engine = OpenAIEngine(model, options(requests_per_minute=600))
        loop = asyncio.get_running_loop()
        started = loop.time()
        await generate(engine, [Request(f"q{i}", i) for i in range(6)], Sampling(1, 1, 5))
        return loop.time() - started

    # Six requests a tenth of a second apart: no machine is so fast that it takes less.
    assert asyncio.run(ask_slowly()) >= 0.5


def test_what_a_prompt_must_leave_room_for_is_no_endpoint_s_affair() -> None:
    least, plain = Sampling(0, 1, 1000, least_tokens=16), Sampling(0, 1, 1000)
    assert _changes(least) == {}
    # Replies that were paid for are known by how they were asked.
    assert repr(least) == repr(plain)
