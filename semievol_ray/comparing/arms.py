"""What is compared: a config as it is, policies, ablations of the paper, and humble peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semievol_ray.config import PRESETS

# Of the linear classifiers: the one has the name a run gives it, the other that of its embedder.
TFIDF, EMBEDDER = "TF-IDF + LR", "embedder + LR"
_NEVER = {"justify": {"when": "never"}}
_WARM = {"model": "warm"}


@dataclass(frozen=True)
class Arm:
    """Something that answers the test set: a run of its own, or a model of a run that is there."""

    says: str
    # What its run has that the config has not; null: it is a model of the first run.
    changes: Mapping[str, Any] | None = None
    # Which of the compared models it is.
    model: str = "SemiEvol"
    # Kinds of tasks that have it; empty: all.
    kinds: tuple[str, ...] = ()
    # Sections that it sets as a whole, where the rest is merged.
    whole: tuple[str, ...] = field(default=())


def _policy(name: str, **more: Any) -> dict[str, Any]:
    return {"selection": {"policy": name}} | more


_CLOSED = ("label", "multiple_choice")
ARMS: dict[str, Arm] = {
    "config": Arm("the config as it is", {}),
    "vanilla": Arm("the base model as it is", model="vanilla"),
    "sft": Arm("fine-tuned on the labels alone", model="SFT"),
    "tfidf-lr": Arm(
        "logistic regression on the labels over TF-IDF", model=TFIDF, kinds=("label",)
    ),
    "embedder-lr": Arm(
        "logistic regression on the labels over the retrieval's embedder",
        model=EMBEDDER, kinds=("label",),
    ),
    "rag-faiss": Arm("the base model, shown the labels nearest to each question", model="shots"),
    "rag-bm25": Arm("the same, the labels that BM25 ranks first", model="bm25"),
    "all-labels": Arm("fine-tuned on the unlabelled rows' true answers too", model="all-labels"),
    "paper": Arm(
        "the paper's policy: the lowest entropies",
        _policy("paper", justify={"when": "always"}),
    ),
    "balanced": Arm("the best of each class, aligned to the labels", _policy("balanced") | _NEVER,
                    kinds=_CLOSED),
    "upstream": Arm(
        "what the authors' released code does",
        # How long a response may be is the task's matter.
        {name: section for name, section in PRESETS["upstream"].items() if name != "generation"},
        whole=("collaborators",),
    ),
    "stacked": Arm("voters weighed by labels they had not seen", _policy("stacked") | _NEVER,
                   kinds=_CLOSED),
    "agreement": Arm("the largest shares of the votes", _policy("agreement")),
    "random": Arm("rows by chance", _policy("random")),
    "self-training": Arm(
        "one greedy voter, all its answers trusted",
        {
            "collaborators": [_WARM | {"temperature": 0.0}],
            "selection": {"policy": "paper", "percentile": 100.0},
        } | _NEVER,
        whole=("collaborators",),
    ),
    "no-iwp": Arm(
        "without in-weight propagation: the base model votes (the entropies that paper ranks by "
        "are still the warm model's)",
        {"collaborators": [{"model": "base", "shots": n} for n in range(4)]} | _NEVER,
        whole=("collaborators",),
    ),
    "no-icp": Arm(
        "without in-context propagation: no voter is shown labels",
        {"collaborators": [_WARM for _ in range(4)]},
        whole=("collaborators",),
    ),
    "no-cl": Arm(
        "without collaboration: one voter",
        {"collaborators": [_WARM]} | _NEVER,
        whole=("collaborators",),
    ),
    "no-as": Arm("without selection: all pseudo-answers", {"selection": {"percentile": 100.0}}),
}  # fmt: skip

# What is compared where nobody says what.
USUAL = ("vanilla", "sft", "tfidf-lr", "config", "paper", "balanced")
