"""What a policy is: frozen, checked by itself, and sent to wherever a shard is looked at."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa

from semievol_ray import _native
from semievol_ray.selection.distinct import Distinct
from semievol_ray.selection.examples import Examples
from semievol_ray.selection.judged import Judged
from semievol_ray.selection.thresholds import ALL, Keys, keys_within

Shard = Callable[[], Examples]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
# What is done with each shard in the end: its SELECTION table.
Decision = Callable[[Shard], pa.Table]


class Facts(Protocol):
    """What a run knows besides its responses; each is asked for by the policies that need it."""

    @property
    def classes(self) -> Sequence[str] | None:
        """The canonical answers in the order of the options; None where the task is open."""

    def label_counts(self) -> Sequence[int]:
        """How many labels each class has."""

    def labeled_entropies(self) -> pa.Array:
        """Entropies of the model's own responses to the labels, in nats."""

    def calibration(self) -> Calibration:
        """The voters' answers to labels that they had not seen."""

    def true_answers(self) -> Mapping[str, str]:
        """The unlabelled rows' canonical answers by id, where known: for measuring alone."""

    @property
    def tolerance(self) -> float:
        """Two numbers that differ by this share are one answer; 0 where answers are none."""


@dataclass(frozen=True)
class Calibration:
    """Held-out labels under every voter: `responses` in the RESPONSE schema, `gold` by id."""

    responses: pa.Table
    gold: Mapping[str, str]


@dataclass(frozen=True)
class Passes:
    """The shards, and how a function is applied to each of them."""

    shards: Sequence[Shard]
    map: Map
    # Notes the ids of every shard on the first pass; None where there is one shard.
    ids: Distinct | None

    def each(self, function: Callable[..., Any], *arguments: Any) -> Iterable[Any]:
        """`function(*arguments, shard)` of each shard, in order."""
        return self.map(partial(function, *arguments), self.shards)

    def noting(self, function: Callable[..., tuple[Keys, Keys]], *arguments: Any) -> Iterable[Keys]:
        """The first of each pair that `function` gives; the second, hashes of ids, is noted."""
        parts = self.each(function, *arguments)
        return self.ids.noting(parts) if self.ids is not None else (keys for keys, _ in parts)

    def note(self) -> None:
        """A pass for the ids alone."""
        if self.ids is not None:
            for hashes in self.each(hashes_within, 0, ALL):
                self.ids.note(hashes)


def hashes_within(low: int, high: int, shard: Shard) -> Keys:
    """The hashes of a shard's ids in a window."""
    return keys_within(_native.hash_ids(shard().ids).to_numpy(), low, high)


@dataclass(frozen=True, kw_only=True)
class Policy(abc.ABC):
    """Which pseudo-answer an example has, how sure it is, and how sure it has to be.

    Raises ValueError on construction for a setting that cannot be.
    """

    # Whether it looks at `option_logprobs`; then the task has to be closed.
    reads_options: ClassVar[bool] = False
    # Whether entropies of different models' answers would be compared with one another.
    ranks_by_entropy: ClassVar[bool] = False
    # Whether its threshold may be the labels' (`percentile_over`).
    labels_may_decide: ClassVar[bool] = False
    # Whether it needs `Facts.calibration`: the voters' answers to held-out labels.
    calibrates: ClassVar[bool] = False
    # Whether what it promises holds of those voters alone who answered these labels.
    promises: ClassVar[bool] = False
    # Its settings in a config's `selection.options`.
    options: ClassVar[frozenset[str]] = frozenset()

    # The share to keep, in percent.
    percentile: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile: {self.percentile} does not lie in (0, 100]")

    @classmethod
    @abc.abstractmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """The policy of a config: `settings` are `percentile`, `percentile_over`, `align_prior`,
        and those of `options` that are set. Raises ValueError for what they cannot be."""

    def weights(self) -> Mapping[str, float] | None:
        """What each collaborator's distribution counts; None: the plain mean of all."""
        return None

    @property
    def most_options(self) -> int | None:
        """The most options that an example has; None where options are not read."""
        return None

    def statistics(self) -> dict[str, Any]:
        """What it found out on the way, worth keeping with the run."""
        return {}

    def note(self) -> str | None:
        """The same in one line, where a user should read it."""
        return None

    @abc.abstractmethod
    def judge(self, examples: Examples) -> Judged:
        """The pseudo-answers of some examples, none of which knows of the others."""

    @abc.abstractmethod
    def decide(self, passes: Passes) -> Decision:
        """What is selected of each shard, by what all of them are."""
