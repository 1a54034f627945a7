"""How long a response may be, where the config leaves it open: by the labels' longest answer.

Too short a limit costs accuracy silently, for what is cut off is no answer. Too long a one costs
little: a model that was trained on the labels ends its answers itself.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from semievol_ray.engines import Engine, Sampling
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.tokens import Tokens

if TYPE_CHECKING:
    from semievol_ray.stages.run_view import ModelRef, RunView

# The corpus may hold longer answers than the labels do.
_MARGIN = 2
_FEWEST_TOKENS = 16
# A model that has not seen the labels says more than the answer.
_ROOM_TO_REASON_TOKENS = 256


def response_tokens(view: RunView, model: ModelRef, limit: int | str) -> int:
    """The limit of a model's responses in tokens: the configured one, or for "auto" what fits.

    Twice the longest answer among the labels, 16 at least; of a model that this run did not train
    256 more.
    """
    if isinstance(limit, int):
        return limit
    return _answer_tokens(view) + (0 if model.was_trained else _ROOM_TO_REASON_TOKENS)


def most_response_tokens(view: RunView, limit: int | str) -> int:
    """The longest of these limits: that of a model which this run did not train."""
    return limit if isinstance(limit, int) else _answer_tokens(view) + _ROOM_TO_REASON_TOKENS


def fit_window(sampling: Sampling, engine: Engine) -> Sampling:
    """The sampling for an engine: a response takes half of its context window at most."""
    most = min(sampling.max_tokens, max(engine.max_model_len // 2, 1))
    least = None if sampling.least_tokens is None else min(sampling.least_tokens, most)
    return dataclasses.replace(sampling, max_tokens=most, least_tokens=least)


def _answer_tokens(view: RunView) -> int:
    return max(_MARGIN * _longest_answer(view), _FEWEST_TOKENS)


def _longest_answer(view: RunView) -> int:
    """Tokens of the longest labelled answer with its end; bytes where nothing counts tokens."""
    answers = set(view.task.labels or view.labeled["answer"].to_pylist())
    if not view.base.is_local:
        return max(len(answer.encode()) for answer in answers) + 1
    renderer = make_renderer(view)
    tokens, said = Tokens(renderer.tokenizer), [renderer.completion(a) for a in sorted(answers)]
    ids = tokens.candidates([said], [renderer.chat], closed=True)[0]
    return max(map(len, ids))
