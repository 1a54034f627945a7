"""Following a job to its end, however often the connection drops.

Ray's log stream begins with the log's first line each time, so what was printed already is counted
in characters and skipped: no line is lost, none comes twice. A stream that ends, even in good
order, says nothing about the job: only the job's own state does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

from semievol_ray.errors import SemiEvolError
from semievol_ray.submit.lost import JobLostError, is_lost

_PAUSE_SECONDS = 2.0
# A connection that a machine in between has forgotten brings nothing, and does not end either.
_SILENCE_SECONDS = 60.0
_GO_ON = "submit again to go on with the run"


def follow(client: Any, job: str, address: str) -> Any:
    """Print a job's log as it grows; returns Ray's JobDetails of the job that has ended.

    Raises JobLostError where the job went with its machine or the cluster does not know it (any
    more), and SemiEvolError where it refuses the token.
    """
    # It would tell of each connection, to the same terminal.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    return asyncio.run(_Follower(client, job, address).to_the_end())


class _Follower:
    def __init__(self, client: Any, job: str, address: str) -> None:
        self.client, self.job, self.address = client, job, address
        self.printed = 0
        self.connected = True

    async def to_the_end(self) -> Any:
        while True:
            try:
                # First, each time: where no stream lives long, the whole log still gets through.
                details = self.client.get_job_info(self.job)
                if is_lost(details, self.address):
                    raise JobLostError(f"{self.job} went with the machine it ran on; {_GO_ON}")
                self._print(self.client.get_job_logs(self.job), already=0)
                self._say_connected()
                if details.status.is_terminal():
                    return details
                await self._stream()
                await asyncio.sleep(_PAUSE_SECONDS / 10)
            except JobLostError:
                raise
            except Exception as error:  # of whichever library was at the socket
                self._raise_if_final(error)
                self._say_lost(error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _stream(self) -> None:
        position = 0
        async with contextlib.aclosing(self.client.tail_job_logs(self.job)) as stream:
            while True:
                try:
                    lines = await asyncio.wait_for(anext(stream), _SILENCE_SECONDS)
                except (StopAsyncIteration, TimeoutError):
                    return
                self._say_connected()
                self._print(lines, already=position)
                position += len(lines)

    def _print(self, text: str, *, already: int) -> None:
        """Print what is new in a piece of the log that begins at a position of it."""
        new = text[max(self.printed - already, 0) :]
        if new:
            print(new, end="", flush=True)
            self.printed += len(new)

    def _say_connected(self) -> None:
        if not self.connected:
            print("connected again", file=sys.stderr)
        self.connected = True

    def _raise_if_final(self, error: Exception) -> None:
        from ray.exceptions import AuthenticationError

        reason = " ".join(str(error).split())
        if "does not exist" in reason:
            raise JobLostError(
                f"the cluster does not know {self.job} any more, as after a new start of its head; "
                f"{_GO_ON}"
            ) from None
        if isinstance(error, AuthenticationError):
            raise SemiEvolError(f"the cluster refuses the token; {self.job} goes on") from None

    def _say_lost(self, error: Exception) -> None:
        if self.connected:
            print(
                f"the connection was lost ({type(error).__name__}); {self.job} goes on, and is "
                "followed again as soon as the cluster answers",
                file=sys.stderr,
            )
        self.connected = False
