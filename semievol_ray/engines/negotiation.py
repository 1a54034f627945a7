"""Which parameters a model at an endpoint takes, learned from what it refuses.

Models differ: some want another name for a limit, some take no temperature but their own, some
give no logprobs. A refusal that names a parameter which no request has got through with yet is an
answer to that question, and the request is made again without it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

# What becomes of a run without each parameter that it can do without.
_WITHOUT = {
    "temperature": "its responses are drawn at its own temperature",
    "top_p": "its responses are drawn from its own share of the tokens",
    "seed": "asked again, it gives other responses",
    "logprobs": "its responses have no entropy, which selection ranks by",
    "top_logprobs": "options have no scores",
    "stop": "its responses go on behind the stop strings",
}
_RENAMED = {"max_tokens": "max_completion_tokens"}
# Whatever the value is: others have been taken, or none will be.
_ANY_VALUE = {"seed", "max_tokens", "max_completion_tokens"}
_REFUSES = re.compile(
    r"unsupported|not support|not permitted|not allowed|unrecogni[sz]ed|unknown|unexpected|"
    r"extra (input|field|param)|only the default|deprecated",
    re.IGNORECASE,
)


class Negotiation:
    """What has been learned of one model, from all the requests to it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._dropped: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._taken: set[tuple[str, str]] = set()
        self.notes: list[str] = []

    def agreed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the model takes them, as far as is known."""
        return {
            self._renamed.get(name, name): value
            for name, value in parameters.items()
            if name not in self._dropped
        }

    def took(self, sent: Mapping[str, Any]) -> None:
        """A request with these parameters was answered."""
        self._taken |= {_pair(*parameter) for parameter in sent.items()}

    def refused(self, sent: Mapping[str, Any], name: str | None, message: str) -> str | None:
        """The parameter that is left out, or called otherwise, from now on.

        Null where the refusal is no word on a parameter, but on the request. `name` is the
        parameter that the endpoint blames, where it says so.
        """
        if not _REFUSES.search(message):
            return None
        open_ones = [n for n, value in sent.items() if _pair(n, value) not in self._taken]
        named = [n for n in open_ones if n == name] or [
            n for n in open_ones if name is None and re.search(rf"\b{n}\b", message)
        ]
        for found in named:
            if found in _RENAMED and _RENAMED[found] in message:
                self._renamed[found] = _RENAMED[found]
                return found
            if found in _WITHOUT:
                self._drop(found)
                return found
        return None

    def lacks(self, names: Collection[str]) -> bool:
        """Whether one of these parameters is left out."""
        return not self._dropped.isdisjoint(names)

    def _drop(self, name: str) -> None:
        # Without logprobs there are no top ones: no endpoint takes the second alone.
        self._dropped |= {name, "top_logprobs"} if name == "logprobs" else {name}
        self.notes.append(f"{self._model} refuses {name}, which is left out: {_WITHOUT[name]}")


def _pair(name: str, value: Any) -> tuple[str, str]:
    return name, "" if name in _ANY_VALUE else repr(value)
