"""What is tried again, and when."""

from __future__ import annotations

import itertools
import time
from email.utils import formatdate

import httpx
import openai
import pytest

from semievol_ray.engines.reply import NoReply
from semievol_ray.engines.retries import Retries, seconds_asked

REQUEST = httpx.Request("POST", "http://localhost/v1/chat/completions")


def status(code: int, error: dict | None = None, **headers: str) -> openai.APIStatusError:
    answer = httpx.Response(
        code, request=REQUEST, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    return openai.APIStatusError("no", response=answer, body=error)  # type: ignore[arg-type]


def tries(error: Exception) -> int:
    retries = Retries()
    return 1 + sum(1 for _ in iter(lambda: retries.wait_after(error), None))


def test_what_passes_is_tried_seven_times_and_what_is_late_twice() -> None:
    late = openai.APITimeoutError(request=REQUEST)  # type: ignore[arg-type]
    gone = openai.APIConnectionError(request=REQUEST)  # type: ignore[arg-type]
    assert (tries(status(500)), tries(gone), tries(late)) == (7, 7, 2)
    assert [tries(status(code)) for code in (408, 504, 524)] == [2, 2, 2]
    assert (tries(TimeoutError()), tries(NoReply("no JSON"))) == (2, 2)


def test_an_endpoint_that_is_too_busy_is_waited_for() -> None:
    retries = Retries()
    waits = list(iter(lambda: retries.wait_after(status(429, retry_after="1")), None))
    assert 300 < sum(waits) < 315 and waits[0] >= 1
    # So is one that says nothing of how long.
    retries = Retries()
    assert 300 < sum(iter(lambda: retries.wait_after(status(429)), None)) < 315


@pytest.mark.parametrize(
    "error",
    [
        status(400),
        status(402),
        status(413),
        status(429, {"code": "insufficient_quota"}),
        status(429, {"type": "insufficient_quota"}),
        status(500, x_should_retry="false"),
        status(429, retry_after="3600"),
    ],
)
def test_what_is_refused_for_good_is_not_tried_again(error) -> None:
    assert tries(error) == 1


def test_an_endpoint_says_when() -> None:
    assert 7 <= Retries().wait_after(status(429, retry_after="7")) <= 8.75
    assert 0.9 <= Retries().wait_after(status(503, retry_after_ms="900")) <= 1.125
    assert 0.5 <= Retries().wait_after(status(429, retry_after="soon")) <= 0.625
    asked = [seconds_asked({"retry-after": text}) for text in ("0", "nan", "-1", "inf")]
    assert asked == [None] * 4
    assert 5 < seconds_asked({"retry-after": formatdate(time.time() + 9, usegmt=True)}) < 10
    assert seconds_asked({}) is None


def test_waits_grow_up_to_a_limit() -> None:
    retries = Retries()
    waits = [retries.wait_after(status(503)) for _ in range(6)]
    assert all(a < b for a, b in itertools.pairwise(waits[:5]))
    assert waits[5] is not None and 8 <= waits[5] <= 10
