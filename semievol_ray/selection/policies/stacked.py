"""The distributions of the voters weighed by what these are worth on labels they had not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow.compute as pc

from semievol_ray.selection import stacking
from semievol_ray.selection.policies.balanced import Balanced, common
from semievol_ray.selection.policies.policy import Calibration, Facts


@dataclass(frozen=True, kw_only=True)
class Stacked(Balanced):
    """`Balanced` over a weighed pool: p(c) is proportional to the product of p_v(c)^w_v.

    `voter_weights` are what `fit` finds; a voter that is not among them is not heard.
    """

    calibrates = True

    voter_weights: tuple[tuple[str, float], ...]
    # What the weights were fitted on; None where they were given.
    stack: stacking.Stack | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(weight > 0 for _, weight in self.voter_weights):
            raise ValueError("voter_weights: no voter has one above 0")

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        found = common(settings, facts)
        stack = fit(facts.calibration(), found["classes"])
        return cls(**found, voter_weights=tuple(stack.weights.items()), stack=stack)

    def weights(self) -> Mapping[str, float]:
        """See Policy.weights."""
        return dict(self.voter_weights)

    def statistics(self) -> dict[str, Any]:
        """See Policy.statistics."""
        right = {} if self.stack is None else self.stack.accuracies
        voters = {n: {"weight": w, "right": right.get(n)} for n, w in self.voter_weights}
        return super().statistics() | {"voters": voters}

    def note(self) -> str | None:
        """See Policy.note."""
        notes = [note] if (note := super().note()) else []
        if self.stack is not None:
            said = (
                f"{name} {weight:.2f} ({_right(self.stack.accuracies[name])})"
                for name, weight in sorted(self.voter_weights, key=lambda pair: -pair[1])
            )
            count = self.stack.labels
            notes.insert(0, f"voters by weight, from {count} held-out labels: {', '.join(said)}")
        return "; ".join(notes) or None


def _right(share: float | None) -> str:
    return "gives no probabilities" if share is None else f"{100 * share:.0f} % right"


def fit(calibration: Calibration, classes: tuple[str, ...]) -> stacking.Stack:
    """What each voter of held-out labels is worth. Raises ValueError where there are none."""
    responses = calibration.responses
    names = dict.fromkeys(responses["collaborator"].to_pylist())
    voters, ids = {}, None
    for name in names:
        rows = responses.filter(pc.field("collaborator") == name).sort_by("example_id")
        voters[name] = rows["option_logprobs"].combine_chunks()
        ids = rows["example_id"].to_pylist()
    index = {answer: i for i, answer in enumerate(classes)}
    return stacking.fit(voters, [index[calibration.gold[i]] for i in ids or ()])
