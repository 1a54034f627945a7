"""Whatever an endpoint sends is a reply whose every value can be used, or none."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.engines.reply import NoReply, NotTheApi, Reply, read_reply


def body(message: Any = None, **choice: Any) -> bytes:
    said = {"content": "B"} if message is None else message
    return json.dumps({"choices": [{"message": said, **choice}]}).encode()


def read(content: Any, **message: Any) -> Reply:
    return read_reply(body({"content": content, **message}))


def logprobs(*entries: Any) -> dict[str, Any]:
    return {"content": list(entries)}


def test_a_text_in_parts_is_their_texts_together() -> None:
    parts = [{"type": "text", "text": "The answer"}, {"type": "text", "text": " is B"}]
    assert read(parts).content == "The answer is B"
    assert read([]).content == read(None).content == ""
    thinks = [{"type": "thinking", "thinking": [{"type": "text", "text": "A? No."}]}]
    found = read([*thinks, {"type": "text", "text": "B"}])
    assert (found.thought, found.content) == ("A? No.", "B")
    assert read(thinks).content == ""


@pytest.mark.parametrize("content", [{"text": "B"}, 42, True, [1, 2], [{"type": "image_url"}]])
def test_a_content_that_is_no_text_is_no_reply(content) -> None:
    with pytest.raises(NoReply, match="content is no text"):
        read(content)


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"[]", b'"B"', b"null", b'{"choices": null}', b'{"choices": []}', b"[" * 10**5,
     b'{"choices": [null]}', b'{"choices": {"0": 1}}', b'{"choices": [{"message": "B"}]}',
     b"data: {}\n\ndata: [DONE]", "{}".encode("utf-16"), b"9" * 5000],
)  # fmt: skip
def test_what_holds_no_choice_is_no_reply(sent) -> None:
    with pytest.raises(NoReply):
        read_reply(sent)


def test_an_error_in_the_place_of_a_reply_is_kept_as_what_it_says() -> None:
    with pytest.raises(NoReply) as caught:
        read_reply(b'{"error": {"message": "provider returned 502"}}')
    assert caught.value.words == {"message": "provider returned 502"}
    with pytest.raises(NoReply) as caught:
        read_reply(body({"content": ""}, finish_reason="error", error={"message": "lost"}))
    assert caught.value.words == {"message": "lost"}
    with pytest.raises(NotTheApi):
        read_reply(b"\n<!doctype html><html>log in</html>")


def test_texts_can_be_written_as_utf8() -> None:
    halves = body({"content": "\ud83d B", "reasoning": "\ude00"}, finish_reason="\ud83d",
                  logprobs=logprobs({"token": "\ud83d", "logprob": -1}))  # fmt: skip
    found = read_reply(halves)
    assert found.content == "\ufffd B" and found.tokens is not None
    for text in (found.content, found.thought, found.finish_reason, found.tokens[0].text):
        assert text is not None and text.encode()
    assert read("\ud83d\ude00").content == "\U0001f600", "a pair is one character"
    assert read_reply(b'{"choices":[{"message":{"content":"\xff B"}}]}').content == "\ufffd B"


@pytest.mark.parametrize("logprob", [0.5, math.nan, math.inf, "-0.5", None, True, 10**400, [-1]])
def test_a_token_without_a_logprob_leaves_a_reply_without_any(logprob) -> None:
    good = {"token": "B", "logprob": -0.1}
    bad = {"token": " is", "logprob": logprob}
    assert read_reply(body(logprobs=logprobs(good, bad))).tokens is None
    scored = good | {"top_logprobs": [good, bad]}
    found = read_reply(body(logprobs=logprobs(scored)))
    assert found.tokens is not None and found.top == ()


@pytest.mark.parametrize(
    "sent", [[-0.1], "x", 3, {"content": "x"}, {"content": [None]}, {"content": [{"token": "B"}]},
             {"content": [{"token": 1, "logprob": -1}]}, {"tokens": ["B"]}],
)  # fmt: skip
def test_logprobs_in_another_shape_are_none(sent) -> None:
    assert read_reply(body(logprobs=sent)).tokens is None


def test_no_token_is_drawn_without_a_probability() -> None:
    """One among the most probable may have none."""
    never = {"token": "A", "logprob": -math.inf}
    assert read_reply(body(logprobs=logprobs(never))).tokens is None
    drawn = {"token": "B", "logprob": 0, "top_logprobs": [never]}
    found = read_reply(body(logprobs=logprobs(drawn)))
    assert found.tokens is not None and found.top == (("A", -math.inf),)


def test_a_logprob_that_rounding_put_above_0_is_0() -> None:
    found = read_reply(body(logprobs=logprobs({"token": "B", "logprob": 1e-6, "bytes": [300]})))
    assert found.tokens is not None and found.tokens[0] == ("B", b"B", 0.0)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 1}, (7, 1)),
        ({"prompt_tokens": "7", "completion_tokens": 1.0}, (7, 1)),
        ({"prompt_tokens": -7, "completion_tokens": 2**31}, (None, None)),
        ({"prompt_tokens": "many", "completion_tokens": math.nan}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": [1]}, (None, None)),
        ([1], (None, None)),
        ("7", (None, None)),
    ],
)
def test_a_usage_that_is_none_counts_nothing(usage, counts) -> None:
    sent = {"choices": [{"message": {"content": "B"}}], "usage": usage}
    found = read_reply(json.dumps(sent).encode())
    assert (found.prompt_tokens, found.response_tokens) == counts


def test_a_reason_that_is_no_word_is_none() -> None:
    assert read_reply(body(finish_reason=3)).finish_reason is None
    assert read_reply(body(finish_reason="length")).finish_reason == "length"


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["content", "text", "thinking", "token", "logprob", "bytes"])
        , inner, max_size=3),
)  # fmt: skip


@given(_ODD, _ODD, _ODD, _ODD)
def test_nothing_else_comes_of_anything(content, logprobs, usage, reason) -> None:
    message = {"content": content, "reasoning": reason}
    choice = {"message": message, "logprobs": logprobs, "finish_reason": reason}
    for sent in ({"choices": [choice], "usage": usage}, {"choices": [content]}, content):
        try:
            found = read_reply(json.dumps(sent).encode())
        except NoReply:
            continue
        assert isinstance(found.content.encode(), bytes)
        assert all(token.logprob <= 0 for token in found.tokens or ())


@pytest.mark.parametrize("reason", ["error", "abort", "content_filter"])
def test_an_answer_that_was_broken_off_is_none(reason) -> None:
    with pytest.raises(NoReply, match=f"broken off \\({reason}\\)"):
        read_reply(body({"content": "The answer is 12"}, finish_reason=reason))


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
def test_an_answer_that_was_cut_off_says_so(reason) -> None:
    found = read_reply(body({"content": "The answer is 12"}, finish_reason=reason))
    assert found.finish_reason == "length"


def test_tokens_of_thoughts_are_counted_where_they_stand_beside() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 531}
    sent = json.loads(body({"content": "B"}))
    found = read_reply(b"\xef\xbb\xbf" + json.dumps(sent | {"usage": usage}).encode())
    assert (found.prompt_tokens, found.response_tokens) == (30, 501)
