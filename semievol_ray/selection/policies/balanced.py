"""Policies of distributions over the options: aligned to a prior, and the best of each class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray import _native
from semievol_ray.schema import SELECTION
from semievol_ray.selection.examples import Examples
from semievol_ray.selection.judged import Judged, first_of, table_of
from semievol_ray.selection.label_shift import (
    chosen_by_class,
    corpus_prior,
    labels_prior,
    shrunk_prior,
)
from semievol_ray.selection.policies.policy import Decision, Facts, Passes, Policy, Shard
from semievol_ray.selection.thresholds import (
    Keys,
    Windows,
    at_last,
    class_keys,
    last_ties,
    quotas,
    within,
)

# The alignment looks at this many probabilities at most: all the rows of most runs, and a sample
# by the hash of the id, the same for any partition, of larger ones.
ALIGNMENT_VALUES = 1 << 24
_EVEN = (
    "as many labels of each class were chosen, which tells nothing of the corpus: nothing is "
    "aligned to them (selection.options: {prior: labels} if it is as even, {prior: corpus} if not)"
)


@dataclass(frozen=True, kw_only=True)
class Balanced(Policy):
    """The most probable option of the collaborators' mean distribution, aligned to a prior.

    The best `percentile` percent of each predicted class are selected, ties by a hash of the id.
    `classes` are the canonical answers in the order of `option_logprobs`; `prior` are their shares
    among the labels, None where nothing is aligned. With `label_counts` the labels count as far as
    they know better than the voters, with `shifts_prior` the shares of the corpus are estimated by
    what these say (`label_shift`). The entropy is that of the justified answer or
    of the consensus, where they say the same.
    """

    reads_options = True
    options = frozenset({"prior"})

    classes: tuple[str, ...]
    prior: tuple[float, ...] | None = None
    # How many labels each class has, where these are a sample of the corpus.
    label_counts: tuple[int, ...] | None = None
    # Whether the corpus has shares of its own, to be estimated from what is said of its rows.
    shifts_prior: bool = False
    # Whether nothing is aligned because the labels were chosen class by class.
    labels_are_even: bool = False
    # What each class is multiplied with; found by `decide`.
    aligned: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise ValueError("classes: a policy of distributions needs a closed task's")
        if self.prior is not None and len(self.prior) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes, but a prior of {len(self.prior)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        return cls(**common(settings, facts))

    @property
    def most_options(self) -> int:
        """See Policy.most_options."""
        return len(self.classes)

    def statistics(self) -> dict[str, Any]:
        """See Policy.statistics."""
        whose = "corpus" if self.shifts_prior else "labels"
        return {"aligned_to": None if self.prior is None else whose}

    def note(self) -> str | None:
        """See Policy.note."""
        return _EVEN if self.labels_are_even else None

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge."""
        assert examples.distribution is not None
        weights = self.aligned or (1.0,) * len(self.classes)
        found = _native.align_options(examples.distribution, list(weights))
        predicted = found["class"].fill_null(-1).to_numpy()
        answer = pa.array(self.classes, pa.string()).take(found["class"])
        known = predicted >= 0
        return Judged(
            answer,
            answer,
            entropy_of(examples, answer),
            found["probability"].to_numpy(zero_copy_only=False).astype(np.float64),
            first_of(
                selected=known, no_response=~examples.responded, no_distribution=np.ones_like(known)
            ),
            ranked=known,
            distribution=found["distribution"],
            predicted=predicted,
        )

    def decide(self, passes: Passes) -> Decision:
        """See Policy.decide."""
        policy = self.align(passes)

        def look(windows: Windows | None) -> Iterable[Keys]:
            if windows is None:
                return passes.noting(_class_keys, policy, passes.ids is not None)
            return passes.each(_keys_in, policy, windows)

        last, room, among = quotas(look, self.percentile)
        limit = last_ties(lambda: passes.each(_ties, policy, last), last, room, among)
        return partial(_within_quota, policy, last, limit)

    def align(self, passes: Passes) -> Self:
        """The policy with the weights of the classes at which their mean is the prior."""
        if self.prior is None:
            return self
        most = max(ALIGNMENT_VALUES // len(self.classes), 1)
        _, sample = _smallest(passes.each(_sample, most), most)
        prior = list(self.prior)
        if self.shifts_prior:
            prior = corpus_prior(sample, prior).tolist()
        elif self.label_counts is not None:
            prior = shrunk_prior(self.label_counts, sample).tolist()
        return replace(self, aligned=tuple(_native.alignment_weights(sample, prior)))


def common(settings: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """What every policy of distributions is made of."""
    aligns, whose = settings.get("align_prior", "auto"), settings.get("prior")
    if whose not in (None, "labels", "corpus"):
        raise ValueError(f"prior: {whose!r} is neither labels nor corpus")
    counts, is_open = facts.label_counts(), aligns == "auto" and whose is None
    are_even = is_open and chosen_by_class(counts)
    return {
        "percentile": settings["percentile"],
        "classes": tuple(facts.classes or ()),
        "prior": tuple(labels_prior(counts)) if aligns and not are_even else None,
        "label_counts": tuple(counts) if is_open and not are_even else None,
        "shifts_prior": whose == "corpus",
        "labels_are_even": are_even,
    }


def entropy_of(examples: Examples, answer: pa.Array) -> npt.NDArray[np.float64]:
    """Of the justified answer or of the consensus, where they say the same; else NaN."""
    agrees = pc.equal(answer, examples.justified_answer).fill_null(False)
    consents = pc.equal(answer, examples.winner).fill_null(False)
    return np.where(
        agrees.to_numpy(zero_copy_only=False),
        examples.justified_entropy,
        np.where(consents.to_numpy(zero_copy_only=False), examples.winner_entropy, np.nan),
    )


_Sample = tuple[npt.NDArray[np.uint64], pa.ListArray]


def _sample(most: int, shard: Shard) -> _Sample:
    examples = shard()
    distribution = examples.distribution
    assert distribution is not None
    known = distribution.is_valid()
    hashes = _native.hash_ids(examples.ids).filter(known).to_numpy()
    return _smallest([(hashes, distribution.filter(known))], most)


def _smallest(samples: Iterable[_Sample], most: int) -> _Sample:
    """The rows of the smallest hashes, in the order of these."""
    kept: _Sample = (np.empty(0, np.uint64), pa.array([], SELECTION.field("distribution").type))
    for hashes, rows in samples:
        both = np.concatenate([kept[0], hashes])
        order = np.argsort(both, kind="stable")[:most]
        kept = both[order], pa.concat_arrays([kept[1], rows]).take(pa.array(order))
    return kept


def _ranked(policy: Balanced, shard: Shard) -> tuple[Examples, Judged, Keys, Keys]:
    """The examples, their judgement, and of the ranked ones the keys and tie-breakers."""
    examples = shard()
    judged = policy.judge(examples)
    assert judged.predicted is not None
    ranked = judged.ranked
    keys = class_keys(judged.predicted[ranked], judged.score[ranked])
    return examples, judged, keys, _native.hash_ids(examples.ids).to_numpy()[ranked]


def _class_keys(policy: Balanced, noted: bool, shard: Shard) -> tuple[Keys, Keys]:
    examples, _, keys, _ = _ranked(policy, shard)
    hashes = _native.hash_ids(examples.ids).to_numpy() if noted else np.empty(0, np.uint64)
    return keys, hashes


def _keys_in(policy: Balanced, windows: Windows, shard: Shard) -> Keys:
    return windows.of(_ranked(policy, shard)[2])


def _ties(policy: Balanced, last: Keys, shard: Shard) -> tuple[Keys, Keys]:
    _, _, keys, ties = _ranked(policy, shard)
    here = at_last(keys, last)
    return keys[here], ties[here]


def _within_quota(policy: Balanced, last: Keys, limit: Keys, shard: Shard) -> pa.Table:
    examples, judged, keys, ties = _ranked(policy, shard)
    trusted = np.zeros(len(examples), dtype=bool)
    trusted[judged.ranked] = within(keys, ties, last, limit)
    return table_of(examples, judged, trusted, "outside_quota")
