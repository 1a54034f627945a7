"""How long a context the stages need, where the config leaves it open.

A server takes the model's own, 128k and more with today's models, and may not start for it; a
run's prompts are known once its files are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semievol_ray.config import ModelConfig, thinking_of
from semievol_ray.stages.limits import most_response_tokens

if TYPE_CHECKING:
    from semievol_ray.stages.run_view import RunView

# What a chat template adds: once (a system turn, a date), and to each turn.
_TEMPLATE_TOKENS, _TURN_TOKENS = 512, 32
_STEP_TOKENS, _FEWEST_TOKENS = 512, 2048


def asks_for_window(model: ModelConfig) -> bool:
    """Whether a model's engine is to be told how long a context the run needs."""
    return model.engine == "vllm" and model.max_model_len is None


def window_tokens(view: RunView) -> int | None:
    """Tokens that a prompt and its response take at most, in any stage that asks a model.

    An upper bound, for a token holds at least a byte: the longest question behind the most
    demonstrations, or the most proposed answers, and the longest response, which is given half of
    a window at most. Null for a run whose files an earlier version read.
    """
    if view.ingested.longest is None:
        return None
    longest = _longest_bytes(view)
    config, task = view.config, view.task
    written = most_response_tokens(view, config.generation.max_tokens)
    response = max(
        written,
        most_response_tokens(view, config.justify.max_tokens),
        config.evaluation.max_tokens,
    )
    asked = ((c, config.models.get(c.model, config.model)) for c in config.collaborators)
    thoughts = (thinking_of(collaborator, model)[1] for collaborator, model in asked)
    response += max(config.model.thinking_tokens, *thoughts)
    shots = max(config.evaluation.shots, *(c.shots for c in config.collaborators))
    shown = shots * (longest["labeled"] + 2 * _TURN_TOKENS)
    # In place of demonstrations: what the collaborators wrote.
    answer = max(len(label.encode()) for label in task.labels or ("AA",))
    proposed = len(config.collaborators) * (2 + (answer if task.is_closed else written))
    prompt = (
        len(task.instruction.encode())
        + max(shown, proposed + _TURN_TOKENS)
        + max(longest.values())
        + _TEMPLATE_TOKENS
    )
    needed = max(prompt + response, 2 * response)
    return max(_FEWEST_TOKENS, -(-needed // _STEP_TOKENS) * _STEP_TOKENS)


def _longest_bytes(view: RunView) -> dict[str, int]:
    """Bytes of each split's longest example as it stands in a prompt, its answer behind it."""
    found = {}
    for split, (shard, row) in (view.ingested.longest or {}).items():
        (example,) = view.run.read_table(shard).slice(row, 1).to_pylist()
        text = view.task.question(example) + (example["answer"] or "")
        found[split] = len(text.encode())
    return found
