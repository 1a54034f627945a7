"""What a classifier is fitted to: questions with the names of their classes, and some without.

The labels; and in later rounds, where `iteration.refit` asks for it, what was selected before
(co-training: Blum and Mitchell, COLT 1998). Its ModelConfig is named for what it has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.classifiers import HEADS
from semievol_ray.config import ModelConfig
from semievol_ray.retrieval import example_texts
from semievol_ray.selection import hash_ids
from semievol_ray.stages.run_view import AFTER_ROUND, HELD_OUT, RunView, selected_answers
from semievol_ray.store import layout

# Of what was selected: a fit takes seconds, and what more rows would teach it, few would not know.
MOST_SELECTED = 5000
# Of the corpus, and from how many of its shards: a few rows of each class and a graph of them all.
MOST_QUESTIONS, _MOST_SHARDS = 10_000, 100

Known = list[tuple[str, str]]


def known_answers(view: RunView, classifier: ModelConfig) -> Known:
    """(question, class) pairs of all that a classifier may see, by its name."""
    if layout.referred(classifier.name) is not None:
        return []  # it is fitted already
    if classifier.name.endswith(HELD_OUT):
        return from_labels(view, without=view.held_out)
    _, _, after = classifier.name.partition(AFTER_ROUND)
    if not after:
        return from_labels(view)
    mined = view.config.iteration.mode == "mine"
    rounds = range(1 if mined else int(after), int(after) + 1)
    return from_labels(view) + from_selections(view, rounds)


def some_questions(view: RunView, classifier: ModelConfig) -> list[str]:
    """Questions of the corpus, MOST_QUESTIONS of them, for a classifier that learns from these."""
    fitted = layout.referred(classifier.name) is not None
    if fitted or not HEADS[classifier.engine].sees_corpus:
        return []
    shards = view.shards("unlabeled")
    names = [*shards][:: -(-len(shards) // _MOST_SHARDS) or 1]
    rows = sum(shards[name] for name in names)
    found: list[str] = []
    for name in names:
        examples = view.run.read_table(name)
        drawn = _drawn(examples, MOST_QUESTIONS / max(MOST_QUESTIONS, rows))
        found += example_texts(examples.filter(drawn))
    return found


def from_labels(view: RunView, without: Iterable[str] = ()) -> Known:
    """The labels, but for some ids."""
    left_out = pa.array(sorted(without), pa.string())
    labeled = view.labeled.filter(pc.invert(pc.is_in(view.labeled["example_id"], left_out)))
    return _named(view, labeled)


def from_selections(view: RunView, rounds: Iterable[int], most: int = MOST_SELECTED) -> Known:
    """Some `most` of the pseudo-answers that these rounds selected, drawn by the hash of the id."""
    done = [view.ledger.done(layout.round_stage(number, "select")) for number in rounds]
    selected = sum(manifest.statistics["reasons"].get("selected", 0) for manifest in done)
    share = most / max(most, selected)
    found: Known = []
    for source, answers in _selected(view, [manifest.folder for manifest in done]):
        examples = view.run.read_table(source)
        among = pc.is_in(examples["example_id"], pa.array(answers, pa.string()))
        examples = examples.filter(pc.and_(among, _drawn(examples, share)))
        answer = pa.array([answers[i] for i in examples["example_id"].to_pylist()], pa.string())
        at = examples.schema.get_field_index("answer")
        found += _named(view, examples.set_column(at, "answer", answer))
    return found


def _drawn(examples: pa.Table, share: float) -> pa.Array:
    """Which rows are in a share that is drawn by the id.

    By another hash than selection draws by: what that drew would all lie at one end of its own.
    """
    salted = pc.binary_join_element_wise(examples["example_id"], "to be learnt", " ")
    return pa.array(hash_ids(salted).to_numpy() / 2**64 <= share)


def _selected(view: RunView, folders: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for source in view.shards("unlabeled"):
        answers: dict[str, str] = {}
        for folder in folders:
            answers |= selected_answers(view.run, layout.same_shard(source, folder))
        if answers:
            yield source, answers


def _named(view: RunView, examples: pa.Table) -> Known:
    names = map(view.task.class_of, examples.to_pylist())
    return list(zip(example_texts(examples), names, strict=True))
