"""Rows of a run that a person should read, and rows that a person should label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.report.corpus import Corpus
from semievol_ray.results import Run
from semievol_ray.review import Row, rows_with_ids
from semievol_ray.selection import hash_ids

# Of each kind that the report shows.
_EACH = 40
_LONGEST = 1200
# Worth labelling: so many of the least certain rows are looked at for so many that differ.
_CANDIDATES, _WORTH_LABELLING = 1000, 50


@dataclass(frozen=True)
class Example:
    """A row to be read: its kinds, what was asked, and what was said of it."""

    kinds: tuple[str, ...]
    example_id: str
    question: str
    facts: tuple[tuple[str, str], ...]


def corpus_examples(run: Run, corpus: Corpus, round_number: int) -> list[Example]:
    """Selected and rejected rows, and those whose vote was overruled, drawn by their ids."""
    rows = corpus.rows
    wrong = pc.invert(rows["right"])  # null where the truth is not known
    kinds = {
        "selected": rows["selected"],
        "selected but wrong": pc.and_(rows["selected"], pc.fill_null(wrong, False)),
        "rejected": pc.invert(rows["selected"]),
        "changed by justification": rows["justified"],
    }
    found: dict[str, list[str]] = {}
    for kind, mask in kinds.items():
        for example_id in _drawn(rows.filter(mask)["example_id"]):
            found.setdefault(example_id, []).append(kind)
    shown = {row.values["example_id"]: row for row in rows_with_ids(run, found, round_number)}
    return [_example(shown[i], tuple(names)) for i, names in found.items() if i in shown]


def compared_examples(run: Run) -> list[Example]:
    """Test rows that only the evolved model, or only the fine-tuned one, has right."""
    first = run.before
    before, after = run.predictions(first), run.predictions("SemiEvol")
    kinds = {
        "hurt by evolution": pc.and_(before["correct"], pc.invert(after["correct"])),
        "mended by evolution": pc.and_(after["correct"], pc.invert(before["correct"])),
    }
    rows = pa.table(
        {
            "example_id": before["example_id"],
            "gold": before["gold"],
            first: before["answer"],
            "SemiEvol": after["answer"],
        }
    )
    questions = run.examples("test")
    found = []
    for kind, mask in kinds.items():
        chosen = rows.filter(mask)
        ids = set(_drawn(chosen["example_id"]))
        for row in chosen.to_pylist():
            if row["example_id"] in ids:
                at = pc.index(questions["example_id"], row["example_id"]).as_py()
                facts = tuple((n, row[n] or "no answer") for n in (first, "SemiEvol"))
                asked = _asked(questions.slice(at, 1).to_pylist()[0])
                found.append(
                    Example((kind,), row["example_id"], asked, (*facts, ("true", row["gold"])))
                )
    return found


def worth_labelling(run: Run, corpus: Corpus, round_number: int) -> list[Row]:
    """The least certain rows that were not selected, spread out over what they ask.

    Of the most uncertain ones those are taken that are farthest from what is taken already, by the
    cosine of their TF-IDF vectors (farthest-first traversal; Sener and Savarese, ICLR 2018).
    """
    doubted = corpus.rows.filter(pc.invert(corpus.rows["selected"]))
    doubted = doubted.append_column("hash", hash_ids(doubted["example_id"]))
    order = [("vote_entropy", "descending"), ("margin", "ascending"), ("hash", "ascending")]
    ids = doubted.sort_by(order)["example_id"].slice(0, _CANDIDATES).to_pylist()
    known = {row.values["example_id"]: row for row in rows_with_ids(run, ids, round_number)}
    rows = [known[i] for i in ids if i in known]
    return [rows[i] for i in _spread([row.values["question"] for row in rows], _WORTH_LABELLING)]


def _spread(texts: Sequence[str], most: int) -> list[int]:
    """Indices of texts that differ, the first one first."""
    if not texts:
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=r"\S+", dtype=np.float32).fit_transform(texts)
    nearest = np.full(len(texts), -np.inf)
    taken: list[int] = []
    while len(taken) < min(most, len(texts)):
        # The first is the least certain; a repetition of a taken one is never worth it.
        chosen = int(nearest.argmin()) if taken else 0
        if taken and nearest[chosen] > 0.999:
            break
        taken.append(chosen)
        nearest = np.maximum(nearest, (vectors @ vectors[chosen].T).toarray().ravel())
    return taken


def _drawn(ids: pa.ChunkedArray) -> list[str]:
    """Some of these, the same at each call, spread evenly."""
    table = pa.table({"example_id": ids, "hash": hash_ids(ids)})
    return table.sort_by("hash")["example_id"].slice(0, _EACH).to_pylist()


def _example(row: Row, kinds: tuple[str, ...]) -> Example:
    v = row.values
    votes = "; ".join(f"{vote.collaborator}: {vote.answer or 'no answer'}" for vote in row.votes)
    facts = [("pseudo-answer", v["pseudo_answer"] or "none"), ("votes", votes)]
    if v["true_answer"] is not None:
        facts.append(("true", v["true_answer"]))
    if v["entropy"] is not None:
        facts.append(("entropy", f"{v['entropy']:.3f}"))
    facts += [("agreement", f"{v['agreement']:.2f}"), ("reason", v["reason"])]
    return Example(kinds, v["example_id"], _asked(v), tuple(facts))


def _asked(values: dict[str, Any]) -> str:
    parts: Iterable[str | None] = (
        values["context"], values["question"], "\n".join(values["options"] or ())
    )  # fmt: skip
    text = "\n".join(part for part in parts if part)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
