"""Whether a request to an endpoint that came to nothing is made once more, and when.

An endpoint may have worked on a request whose answer came too late, or cannot be read, and bills
it: that is tried once more, and no oftener. One that is too busy is waited for, however often it
says so. What is refused for good is not tried again at all.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from semievol_ray.engines.reply import NoReply

_RETRIES = 6
_RETRIES_AFTER_BILLED = 1
# Limits are by the minute, and many requests may share one.
_PATIENCE_SECONDS = 300.0
# Who asks for more patience than this does not mean this request.
_LONGEST_RETRY_AFTER = 120.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
# Too busy, a conflict, too many: with all from 500 on these pass.
_PASSING = (408, 409, 425, 429)
# A gateway that did not wait for the answer.
_LATE = (408, 504, 524)


class Retries:
    """Those of one request."""

    def __init__(self) -> None:
        self._tries = self._waits = self._billed = 0
        self._waited = 0.0

    def wait_after(self, error: Any) -> float | None:
        """Seconds until the request is made again after an error of the client; null: never.

        A TimeoutError is an answer that is late, and a NoReply one that cannot be read.
        """
        import openai

        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        self._billed += (
            isinstance(error, openai.APITimeoutError | TimeoutError | NoReply) or status in _LATE
        )
        if self._billed > _RETRIES_AFTER_BILLED:
            return None
        is_busy = status == 429
        self._tries += not is_busy
        if self._tries > _RETRIES or self._waited > _PATIENCE_SECONDS:
            return None
        asked = None
        if isinstance(error, openai.APIStatusError):
            headers = error.response.headers
            told = headers.get("x-should-retry")
            asked = seconds_asked(headers)
            if told == "false" or (told != "true" and not passes(error)):
                return None
            if asked is not None and asked > _LONGEST_RETRY_AFTER:
                return None
        elif not isinstance(error, openai.APIConnectionError | TimeoutError | NoReply):
            return None
        self._waits += 1
        wait: float = min(_FIRST_WAIT * 2 ** (self._waits - 1), _LONGEST_WAIT)
        wait = max(asked or 0.0, wait) * random.uniform(1, 1.25)
        self._waited += wait
        return wait


def passes(error: Any) -> bool:
    """Whether what an endpoint answers (an APIStatusError) may be otherwise the next time."""
    status: int = error.status_code
    return (status in _PASSING or not 400 <= status < 500) and not is_out_of_quota(error)


def is_out_of_quota(error: Any) -> bool:
    """Whether an account is empty: it says so as if it were a limit by the minute."""
    quota = "insufficient_quota"
    return error.status_code == 429 and (error.code == quota or error.type == quota)


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for, as a number or a date; null where it asks for no wait."""
    in_ms, said = headers.get("retry-after-ms"), headers.get("retry-after", "")
    try:
        seconds = float(said) if in_ms is None else float(in_ms) / 1000
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
