"""What an endpoint refuses, limits and leaves out, against a real server on loopback."""

from __future__ import annotations

import asyncio
import itertools
import time

import pyarrow as pa
import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.engines import GENERATION, Batch, Request, Sampling
from semievol_ray.engines.openai_engine import OpenAIEngine
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.store import RunDirectory
from tests.engines.asking import options
from tests.engines.server import Handler


def ask(
    model, count: int = 3, sampling=None, scored: bool = False, **settings
) -> tuple[list[dict], list[str]]:
    """The rows of some requests, and what the engine has to say of them."""

    async def run():
        engine = OpenAIEngine(model, options(**{"max_concurrency": 4} | settings))
        requests = [Request(f"q{i}", i) for i in range(count)]
        candidates = [["A", "B"]] * count if scored else None
        try:
            batch = Batch(requests, sampling or Sampling(0.7, 0.9, 5), candidates)
            return (await engine.answer(batch)).generated.to_pylist(), list(engine.notes())
        finally:
            await engine.close()

    return asyncio.run(run())


def refusal(message: str, param: str | None = None, status: int = 400) -> tuple[int, dict, dict]:
    return status, {"error": {"message": message, "param": param, "code": None}}, {}


def reasoning_model(body: dict) -> tuple[int, dict, dict] | None:
    """As the o-series refuses."""
    if "max_tokens" in body:
        return refusal("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                       "'max_completion_tokens' instead.", "max_tokens")  # fmt: skip
    if body.get("temperature", 1) != 1:
        return refusal("Unsupported value: 'temperature' does not support 0.7 with this model. "
                       "Only the default (1) value is supported.", "temperature")  # fmt: skip
    if "top_p" in body:
        return refusal("Unsupported parameter: 'top_p' is not supported with this model.", "top_p")
    if "logprobs" in body:
        return refusal("You are not allowed to request logprobs from this model", None, 403)
    return None


def test_what_a_model_refuses_is_left_out_and_said(model) -> None:
    Handler.script = reasoning_model
    rows, notes = ask(model)
    assert [row["finish_reason"] for row in rows] == ["stop"] * 3
    last = Handler.seen[-1]
    assert last["max_completion_tokens"] == 5 and last["seed"] in (0, 1, 2)
    assert not {"max_tokens", "temperature", "top_p", "logprobs"} & last.keys()
    assert len(notes) == 3
    assert "refuses temperature, which is left out: its responses are drawn at its own" in notes[0]
    assert "refuses logprobs, which is left out: its responses have no entropy" in notes[2]


def test_servers_that_blame_a_parameter_in_words_alone_are_understood(model) -> None:
    """As a validator of a body says it, and with no `param` and no `error` around it."""
    said = {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
    Handler.script = lambda body: (422, said, {}) if "seed" in body else None
    rows, notes = ask(model)
    assert [row["finish_reason"] for row in rows] == ["stop"] * 3
    assert len(notes) == 1 and "refuses seed" in notes[0]


def test_scores_are_not_to_be_had_without_logprobs(model) -> None:
    Handler.script = reasoning_model
    with pytest.raises(UserError, match="returns no logprobs.*generation.score_options to false"):
        ask(model, scored=True)


def test_what_has_been_taken_once_is_not_given_up_later(model) -> None:
    """A refusal of one row is the row's, whatever words it is in."""
    names_limit = "max_tokens is too large: unsupported for a prompt of 9000 tokens"
    Handler.script = lambda body: (
        refusal(names_limit) if body["messages"][0]["content"] == "q1" else None
    )
    rows, notes = ask(model)
    assert [row["finish_reason"] for row in rows] == ["stop", "engine_error", "stop"]
    assert notes == [] and "max_tokens" in Handler.seen[-1]


def test_one_refusal_in_a_row_of_many_stops_the_run_in_the_endpoints_words(model, tmp_path) -> None:
    Handler.script = lambda body: refusal("this deployment takes no chat")
    with pytest.raises(UserError, match=r"refused \d+ requests in a row.*this deployment takes no"):
        ask(model, 40)
    assert [body["messages"][0]["content"] for body in Handler.seen].count("Say OK.") == 1
    # And none of it is kept as the rows' answer: it is another model that is asked next.
    run = RunDirectory(str(tmp_path))

    async def work():
        with keeping_paid_replies(OpenAIEngine(model, options()), run, "g/shard.parquet") as asked:
            await asked.answer(Batch([Request(f"q{i}", i) for i in range(20)], Sampling(1, 1, 5)))

    with pytest.raises(UserError, match="in a row"):
        asyncio.run(work())
    assert not run.files("g/replies/shard", ".parquet")


@pytest.mark.parametrize("status", [400, 403])
def test_a_filter_that_meets_many_rows_in_a_row_costs_them_alone(model, status) -> None:
    """The rows of a shard that are left after a kill are all that the filter has refused before."""

    def flagged(body):
        asked = body["messages"][0]["content"]
        return refusal("flagged by our policy", status=status) if asked.startswith("q") else None

    Handler.script = flagged
    rows, _ = ask(model, 40)
    assert {row["finish_reason"] for row in rows} == {"engine_error"}
    plain = [body for body in Handler.seen if body["messages"][0]["content"] == "Say OK."]
    assert 1 <= len(plain) <= 4


def test_refusals_that_differ_cost_their_rows(model) -> None:
    Handler.script = lambda body: refusal(f"no answer to {body['messages'][0]['content']}")
    rows, _ = ask(model, 40)
    assert {row["finish_reason"] for row in rows} == {"engine_error"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("usage"), "stop"),
        (lambda r: r.pop("choices"), "request_failed"),
        (lambda r: r["choices"][0].pop("logprobs"), "stop"),
        (lambda r: r["choices"][0].pop("message"), "stop"),
        (lambda r: r["choices"][0]["logprobs"]["content"][0].pop("top_logprobs"), "stop"),
        (lambda r: r.update(choices=[None]), "request_failed"),
        (lambda r: r.update(usage=[1]), "stop"),
        (lambda r: r.update(usage={"prompt_tokens": "7", "completion_tokens": 10**30}), "stop"),
        (lambda r: r["choices"][0].update(logprobs=[-0.1]), "stop"),
        (lambda r: r["choices"][0].update(finish_reason=3), "stop"),
        (lambda r: r["choices"][0]["message"].update(content={"text": "B"}), "request_failed"),
        (lambda r: r["choices"][0]["message"].update(content="\ud83d B"), "stop"),
        (lambda r: r["choices"][0]["logprobs"]["content"][1].update(token="\ud83d"), "stop"),
    ],
)
def test_what_is_odd_in_one_reply_costs_its_row_at_most(model, change, reason, tmp_path) -> None:
    def script(body):
        question = body["messages"][0]["content"]
        reply = Handler.completion(body, question)
        if question == "q1":
            change(reply)
        return 200, reply, {}

    Handler.script = script
    rows, _ = ask(model, 5, scored=True)
    assert [row["finish_reason"] for row in rows] == ["stop", reason, "stop", "stop", "stop"]
    table = pa.Table.from_pylist(rows, GENERATION)
    RunDirectory(str(tmp_path)).write_table("rows.parquet", table)


@pytest.mark.parametrize("logprob", [0.5, float("nan"), "-0.5", None])
def test_a_row_with_a_logprob_that_is_none_has_none(model, logprob) -> None:
    """What cannot be computed with is found before the next row is paid for."""

    def script(body):
        question = body["messages"][0]["content"]
        reply = Handler.completion(body, question)
        if question == "q1":
            reply["choices"][0]["logprobs"]["content"][1]["logprob"] = logprob
        return 200, reply, {}

    Handler.script = script
    rows, notes = ask(model)
    assert [row["token_logprobs"] is None for row in rows] == [False, True, False]
    assert [row["text"] for row in rows] == ["B q0", "B q1", "B q2"] and notes == []


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0}, "many"])
def test_tokens_that_an_endpoint_does_not_count_are_estimated_and_said_to_be(model, usage) -> None:
    """A budget of tokens or of money goes by them: at 0 it would never be reached."""

    def script(body):
        reply = Handler.completion(body, "is what it must be")
        return 200, reply | {"usage": usage}, {}

    Handler.script = script
    rows, notes = ask(model)
    assert [(row["prompt_tokens"], row["tokens"]) for row in rows] == [(1, 5)] * 3
    assert len(notes) == 1 and "tokens and cost are estimates" in notes[0]


def test_an_answer_that_is_no_json_costs_its_row(model) -> None:
    Handler.script = lambda body: (
        (200, b"<html>", {}) if body["messages"][0]["content"] == "q1" else None
    )
    rows, _ = ask(model)
    assert [row["finish_reason"] for row in rows] == ["stop", "request_failed", "stop"]


def in_place(status: int, body: object) -> None:
    Handler.script = lambda _: (status, body, {})


def test_rows_that_an_endpoint_fails_at_cost_themselves_alone(model) -> None:
    """They are the last of a shard: each comes after all its tries, and none is between them."""
    down = (500, {"error": {"message": "boom"}}, {"x-should-retry": "false"})
    Handler.script = lambda body: down if body["messages"][0]["content"] != "Say OK." else None
    rows, _ = ask(model, 40)
    assert {row["finish_reason"] for row in rows} == {"request_failed"}
    asked = [body["messages"][0]["content"] for body in Handler.seen]
    assert len(asked) == 40 + asked.count("Say OK.") and 1 <= asked.count("Say OK.") <= 4


def test_what_is_late_is_asked_once_more_and_the_setting_is_named(model) -> None:
    """Each try is billed, though nobody waits for its end."""

    def script(body):
        if body["messages"][0]["content"] != "q0" and body["seed"] < 100:
            time.sleep(1)
        return None

    Handler.script = script
    rows, _ = ask(model, 3, request_timeout_seconds=0.3)
    assert [r["finish_reason"] for r in rows] == ["stop", "request_failed", "request_failed"]
    tries = [body["messages"][0]["content"] for body in Handler.seen]
    assert [tries.count(f"q{i}") for i in range(3)] == [1, 2, 2]
    Handler.script = lambda body: time.sleep(1)
    with pytest.raises(
        SemiEvolError, match=r"generation\.request_timeout_seconds \(0\.1;.*16 times"
    ):
        ask(model, 16, request_timeout_seconds=0.1, max_concurrency=16)


def test_secrets_are_not_repeated_after_an_endpoint(model, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-12345")
    monkeypatch.setenv("TENANT", "tenant-67890")
    headers = {"extra_headers": {"X-Tenant": "${TENANT}"}}
    model = model.model_copy(update={"engine_options": headers})
    repeats = "bad token Bearer sk-secret-12345\n\x1b[31mof tenant-67890"
    for status in (400, 401, 402, 403, 404, 413):
        Handler.script = lambda _, status=status: refusal(repeats, status=status)
        with pytest.raises(UserError) as caught:
            ask(model, 20)
        assert "bad token Bearer *** [31mof ***" in str(caught.value)
        assert "12345" not in str(caught.value) and "67890" not in str(caught.value)
    in_place(200, {"error": {"message": repeats}})
    with pytest.raises(SemiEvolError, match=r"without choices, 16 times.*bad token Bearer \*\*\* "):
        ask(model, 20)


@pytest.mark.parametrize("message", ["You exceeded your quota", "Insufficient Balance"])
def test_an_empty_account_ends_the_run_in_the_endpoints_words(model, message) -> None:
    if message == "Insufficient Balance":
        in_place(402, {"error": {"message": message}})
    else:
        in_place(429, {"error": {"message": message, "code": "insufficient_quota"}})
    with pytest.raises(UserError, match=f"the account is empty, and says: {message}"):
        ask(model, 1)
    assert len(Handler.seen) == 1


def test_a_key_that_is_refused_for_a_reason_is_refused_with_it(model) -> None:
    for status, message in ((401, "expired"), (403, "forbidden region")):
        in_place(status, {"error": {"message": message}})
        with pytest.raises(UserError, match=f"refuses the API key, and says: {message}"):
            ask(model, 1)


def test_one_body_that_is_too_large_costs_its_row(model) -> None:
    large = refusal("too large", status=413)
    Handler.script = lambda body: large if body["messages"][0]["content"] == "q1" else None
    rows, _ = ask(model)
    assert [row["finish_reason"] for row in rows] == ["stop", "engine_error", "stop"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>log in</html>"),
        (404, b"<html><h1>Not Found</h1></html>"),
        (404, {"detail": "Not Found"}),
        (405, {"detail": "Method Not Allowed"}),
    ],
)
def test_an_address_without_the_api_is_said_to_be_one(model, status, body) -> None:
    in_place(status, body)
    with pytest.raises(UserError, match=r"does not speak the API; is base_url right \(…/v1\)\?"):
        ask(model, 1)


def test_a_model_that_is_not_there_is_named(model) -> None:
    in_place(404, {"error": {"message": "The model `m` does not exist"}})
    with pytest.raises(UserError, match="has no model 'm', and says: The model `m` does not"):
        ask(model, 1)


def test_limits_in_the_headers_are_kept_to(model) -> None:
    """Four may be sent every half second; the server says so, and is never asked in vain."""
    times: list[float] = []

    def script(body):
        times.append(time.monotonic())
        left = 3 - (len(times) - 1) % 4
        headers = {"x-ratelimit-remaining-requests": str(left)}
        headers["x-ratelimit-reset-requests"] = "500ms"
        return 200, Handler.completion(body, body["messages"][0]["content"]), headers

    Handler.script = script

    async def run():
        engine = OpenAIEngine(model, options(max_concurrency=1))
        await engine.answer(Batch([Request(f"q{i}", i) for i in range(12)], Sampling(1, 1, 5)))
        await engine.close()

    asyncio.run(run())
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert [gap >= 0.45 for gap in gaps] == [(i + 1) % 4 == 0 for i in range(11)]


def test_the_end_of_a_turn_is_no_token_of_the_text(model) -> None:
    """Some servers list it among the logprobs, as a mark or as nothing at all."""

    def script(body):
        reply = Handler.completion(body, "é")
        content = reply["choices"][0]["logprobs"]["content"]
        question = body["messages"][0]["content"]
        if question != "q0":
            end = "<|im_end|>" if question == "q1" else ""
            content.append({"token": end, "logprob": -0.7, "bytes": list(end.encode())})
        return 200, reply, {}

    Handler.script = script
    rows, _ = ask(model)
    assert [row["token_logprobs"] for row in rows] == [pytest.approx([-0.1, -0.2])] * 3


def test_settings_beyond_the_usual_are_asked_for_or_refused_in_the_endpoints_words(model) -> None:
    narrow = Sampling(0.7, 0.9, 5, top_k=4, min_p=0.1, repetition_penalty=1.1, stop=("\n",))
    ask(model, 1, narrow)
    body = Handler.seen[-1]
    asked = {name: body[name] for name in ("top_k", "min_p", "repetition_penalty", "stop")}
    assert asked == {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "stop": ["\n"]}
    assert "presence_penalty" not in body
    Handler.script = lambda body: refusal("Unrecognized request argument supplied: top_k")
    with pytest.raises(UserError, match="Unrecognized request argument supplied: top_k"):
        ask(model, 20, narrow)


def guided(model, options_of: list[str]) -> list[dict]:
    async def run():
        engine = OpenAIEngine(model, options())
        batch = Batch([Request("q", 1)], Sampling(1, 1, 5), choices=[options_of])
        return (await engine.answer(batch)).generated.to_pylist()

    return asyncio.run(run())


def test_guided_decoding_is_asked_of_the_server_and_seen_to_be_obeyed(model) -> None:
    assert guided(model, ["A", "B q"])[0]["text"] == "B q"
    assert Handler.seen[-1]["structured_outputs"] == {"choice": ["A", "B q"]}
    with pytest.raises(UserError, match="answers 'B q', which is none of the options"):
        guided(model, ["A", "B"])


def test_a_shard_of_over_long_prompts_costs_its_rows_alone(model) -> None:
    # vLLM's server says the same of each.
    message = ("This model's maximum context length is 256 tokens. However, your prompt contains "
               "at least 257 input tokens. (parameter=input_tokens, value=257)")  # fmt: skip
    Handler.script = lambda body: refusal(message) if body["seed"] < 40 else None
    rows, _ = ask(model, 42)
    reasons = [row["finish_reason"] for row in rows]
    assert reasons == ["prompt_too_long"] * 40 + ["stop"] * 2


def test_a_limit_by_the_minute_costs_time_and_no_row(model, monkeypatch) -> None:
    """Of a server that takes a few at a time, without a word of when it takes more."""
    monkeypatch.setattr("semievol_ray.engines.retries._FIRST_WAIT", 0.05)
    monkeypatch.setattr("semievol_ray.engines.retries._LONGEST_WAIT", 0.2)
    taken = {"window": 0.0, "count": 0}

    def limited(body):
        if time.monotonic() - taken["window"] > 0.5:
            taken.update(window=time.monotonic(), count=0)
        taken["count"] += 1
        return refusal("Rate limit reached", status=429) if taken["count"] > 6 else None

    Handler.script = limited
    rows, _ = ask(model, 40, max_concurrency=16)
    assert {row["finish_reason"] for row in rows} == {"stop"}
    # One that is refused holds the others back, which would be refused as well.
    assert len(Handler.seen) < 40 + 150


def test_where_the_endpoint_is_given_up_no_more_is_asked(model, tmp_path) -> None:
    Handler.script = lambda body: refusal("Incorrect API key provided", status=401)
    run, batch = RunDirectory(str(tmp_path)), [Request(f"q{i}", i) for i in range(200)]

    async def work():
        engine = OpenAIEngine(model, options(max_concurrency=4))
        with keeping_paid_replies(engine, run, "g/shard.parquet") as paid:
            await paid.answer(Batch(batch, Sampling(0, 1, 5)))

    with pytest.raises(UserError, match="refuses the API key") as caught:
        asyncio.run(work())
    assert len(Handler.seen) <= 8
    # What the client raised may hold the key.
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_one_odd_status_amid_answers_costs_its_row(model) -> None:
    def odd(body):
        asked = body["messages"][0]["content"]
        return refusal("no endpoints found", status=404) if asked == "q30" else None

    Handler.script = odd
    rows, _ = ask(model, 40, max_concurrency=1)
    assert [i for i, row in enumerate(rows) if row["finish_reason"] != "stop"] == [30]


def test_an_answer_that_trickles_is_late(model) -> None:
    Handler.script = lambda body: (200, b" " * 50, {"X-Trickle": "1"})
    begun = time.monotonic()
    with pytest.raises(SemiEvolError, match=r"request_timeout_seconds \(0.4"):
        ask(model, 16, max_concurrency=16, request_timeout_seconds=0.4)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("key", ["sk-“quoted”", "sk-a\tb"])
def test_a_key_that_is_none_is_one_line(model, monkeypatch, key) -> None:
    monkeypatch.setenv(model.api_key_env, key)
    with pytest.raises(UserError, match=f"{model.api_key_env}: holds what no key does") as caught:
        ask(model)
    assert "sk-" not in str(caught.value)


def test_blanks_around_a_key_are_no_part_of_it(model, monkeypatch) -> None:
    monkeypatch.setenv(model.api_key_env, " sk-plain\n")
    rows, _ = ask(model)
    assert {row["finish_reason"] for row in rows} == {"stop"}


@pytest.mark.parametrize(
    "body",
    [
        {"detail": "Model not found"},
        {"error": "model 'm' not found, try pulling it first"},
        [{"error": {"message": "models/m is not found"}}],
    ],
)
def test_a_missing_model_is_said_whatever_the_servers_words(model, body) -> None:
    Handler.script = lambda _: (404, body, {})
    with pytest.raises(UserError, match="has no model 'm', and says: .*not found"):
        ask(model)


def test_what_is_paid_for_is_on_disk_while_the_endpoint_stalls(
    model, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("semievol_ray.engines.paid_replies._PART_EVERY_SECONDS", 0.1)
    run, kept = RunDirectory(str(tmp_path)), []

    def stalls(body):
        if body["messages"][0]["content"] == "q1":
            time.sleep(1)
            kept.extend(run.files("g/replies/shard", ".parquet"))
        return None

    Handler.script = stalls

    async def work():
        engine = OpenAIEngine(model, options(max_concurrency=2))
        with keeping_paid_replies(engine, run, "g/shard.parquet") as paid:
            await paid.answer(Batch([Request("q0", 0), Request("q1", 1)], Sampling(0, 1, 5)))
        await engine.close()

    asyncio.run(work())
    assert kept


def test_the_number_of_a_request_makes_no_other_refusal(model) -> None:
    ids = itertools.count(10**9)
    Handler.script = lambda body: refusal(f"unknown parameter (request req_{next(ids):x})")
    with pytest.raises(UserError, match="has refused .* requests in a row and says: unknown"):
        ask(model, 40)
