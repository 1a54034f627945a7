"""What became of a split's rows, in lines for the user's eye: what is left out silently is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.ingestion import Block, Split
from semievol_ray.sources import are_lists_of_texts
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task

_SHOWN_ANSWERS, _SHOWN, _SHOWN_CHARACTERS = 12, 3, 60


def left_out(rows: int, reading: Split) -> str:
    """How many rows of a split are examples, and how many are not, and why."""
    why = {
        f"unusable ({reading.first_bad})": reading.bad_rows,
        "that repeat others": reading.repeated,
        "nearly the same as others": reading.nearly_repeated,
        "of the test set": reading.contaminated,
        "among the labels": reading.already_labeled,
        "that the run before had": reading.had_before,
    }
    said = ", ".join(f"{count:,} {reason}" for reason, count in why.items() if count)
    return f"{reading.reader.split}: {rows:,} rows{f'; left out: {said}' if said else ''}"


def answers(split: str, counts: Mapping[str, int]) -> str:
    """How often each answer is among a split's rows, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name!r} {count:,}" for name, count in ordered[:_SHOWN_ANSWERS])
    if len(ordered) > _SHOWN_ANSWERS:
        shown += f", … {ordered[-1][0]!r} {ordered[-1][1]:,} ({len(ordered)} answers)"
    return f"{split}: {shown}"


def lists(run: RunDirectory, split: str, blocks: Sequence[Block]) -> str:
    """That each answer of a split is a whole list of texts, in one line; nothing where not so."""
    tables = (run.read_table(block.table, ["answer"]) for block in blocks)
    if not are_lists_of_texts(answer for table in tables for answer in table["answer"].to_pylist()):
        return ""
    return (
        f"{split}: the answers are JSON lists of texts, and each as a whole is one answer; where a "
        "list has several ways to say it, write the one that counts into a column of its own"
    )


def contradictions(
    run: RunDirectory, task: Task, split: str, blocks: Sequence[Block], *, ids_given: bool
) -> str:
    """How many questions of a split have several answers, in one line; nothing where none has.

    `ids_given`: rows of one question are all kept, and else the first of them.
    """
    tables = [run.read_table(block.table, ["content", "answer"]) for block in blocks]
    if not tables:
        return ""
    table = pa.concat_tables(tables)
    answers = table["answer"].combine_chunks()
    if not task.is_closed:
        table = table.set_column(1, "answer", task.parse(answers))
    table = table.filter(pc.field("answer").is_valid())
    found = table.group_by("content", use_threads=False).aggregate([("answer", "distinct")])
    several = found.filter(pc.list_value_length(pc.field("answer_distinct")) > 1)
    if not len(several):
        return ""
    first = several.slice(0, 1).to_pylist()[0]
    question = _question(run, blocks, first["content"])
    said = " and ".join(repr(_short(answer)) for answer in first["answer_distinct"][:_SHOWN])
    kept = "all of these rows count" if ids_given else "the first counts"
    return (
        f"{split}: {len(several):,} questions have more than one answer, and {kept}: "
        f"{_short(question)!r} has {said}"
    )


def _question(run: RunDirectory, blocks: Sequence[Block], content: int) -> str:
    for block in blocks:
        table = run.read_table(block.table, ["content", "question"])
        at = pc.index(table["content"], pa.scalar(content, pa.uint64())).as_py()
        if at >= 0:
            return str(table["question"][at])
    return ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
