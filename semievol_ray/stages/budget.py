"""What the pseudo-responses of a run may cost, in tokens or in money.

Counted are the prompts and the responses of generate and justify, of every round. Work that is in
flight when the budget is reached is finished and kept: it is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable

from semievol_ray.config import ModelConfig
from semievol_ray.errors import UserError
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts

_MILLION = 1_000_000


class Budget:
    """Adds up what is spent, that of the stages before included."""

    def __init__(self, context: Context) -> None:
        self.limit = context.config.generation.budget
        done = [manifest.statistics for manifest in context.ledger.all()]
        self.tokens = sum(found.get("spent_tokens", 0) for found in done)
        self.cost = sum(found.get("spent_cost", 0.0) for found in done)
        self.spent_here: dict[str, float] = {"spent_tokens": 0, "spent_cost": 0.0}

    def spend(self, model: ModelConfig, counts: Counts) -> None:
        """Add what some responses of a model came to."""
        tokens, cost = self.count(model, counts)
        self.spent_here["spent_tokens"] += tokens
        self.spent_here["spent_cost"] += cost

    def count(self, model: ModelConfig, counts: Counts) -> tuple[int, float]:
        """Add what is in another stage's manifest, or will be; its tokens and its cost."""
        tokens = counts.prompt_tokens + counts.tokens
        price = model.price
        cost = 0.0
        if price is not None:
            spent = counts.prompt_tokens * price.prompt + counts.tokens * price.response
            cost = spent / _MILLION
        self.tokens += tokens
        self.cost += cost
        return tokens, cost

    def is_spent(self) -> bool:
        """Whether nothing more is to be asked."""
        over_tokens = self.limit.tokens is not None and self.tokens >= self.limit.tokens
        return over_tokens or (self.limit.cost is not None and self.cost >= self.limit.cost)

    def check(self, missing: Iterable[object]) -> None:
        """Raise UserError where the budget ended the work before its end."""
        left = sum(1 for _ in missing)
        if left and self.is_spent():
            raise UserError(
                f"generation.budget is spent: {self.tokens:,} tokens, cost {self.cost:.2f}; "
                f"{left} shards are left, what was written is kept; raise the budget and run again"
            )
