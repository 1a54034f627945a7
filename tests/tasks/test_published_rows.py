"""The paper's seven tasks on rows as they are published: read, shown, answered, scored.

The texts are made up; columns, types and spellings are those of the authors' files and of the hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.config_file import load_config
from semievol_ray.stages import ingest
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.tasks import TASK_PRESETS, convfinqa_correct


@dataclass(frozen=True)
class Published:
    """Rows of one task, what they come to, and replies to the first with whether they are right."""

    preset: str
    rows: list[dict[str, Any]]
    answers: list[str]
    columns: dict[str, str]
    shown: str
    replies: dict[str, bool]
    options: list[str] | None = None
    also: dict[str, Any] = field(default_factory=dict)


LIGHT = ["red", "green", "blue", "white"]
TASKS = {
    "mmlu, the authors'": Published(
        "mmlu",
        [{"Unnamed: 0": 3, "question": "Which light bends most?", "answer": "C", "Subject": "p",
          "options": json.dumps(LIGHT)},
         {"Unnamed: 0": 4, "question": "Which least?", "answer": "A", "Subject": "p",
          "options": json.dumps(LIGHT)}],
        ["C", "A"], {"options": "options", "subject": "Subject"},
        "Which light bends most?\nA. red\nB. green\nC. blue\nD. white\nAnswer:",
        {"C": True, "Answer: C": True, "(c) blue": True, "A": False, "blue or red": False},
    ),
    "mmlu, the hub's": Published(
        "mmlu",
        [{"question": "Which light bends most?", "subject": "p", "choices": LIGHT, "answer": 2},
         {"question": "Which least?", "subject": "p", "choices": LIGHT, "answer": 0}],
        ["C", "A"], {"options": "choices"}, "C. blue", {"C": True, "B": False},
    ),
    "mmlu_pro": Published(
        "mmlu_pro",
        [{"question_id": 1, "question": "What is 6 times 7?", "answer_index": 9, "category": "math",
          "options": json.dumps([str(n) for n in range(33, 43)]), "answer": "J"},
         {"question_id": 2, "question": "What is 5 times 7?", "answer_index": 2, "category": "math",
          "options": json.dumps([str(n) for n in range(33, 43)]), "answer": "C"}],
        ["J", "C"], {"options": "options", "subject": "category"}, "J. 42\nAnswer:",
        {"J": True, "The answer is (J).": True, "I": False},
    ),
    "arc": Published(
        "arc",
        [{"id": "M_1", "question": "What melts ice?", "answer": "2",
          "options": json.dumps(["shade", "heat", "dark"])},
         {"id": "M_2", "question": "What freezes water?", "answer": "C",
          "options": json.dumps(["light", "noise", "cold"])},
         {"id": "M_3", "question": "What cooks rice?", "answer": "3",
          "options": json.dumps(["light", "noise", "fire"])}],
        ["B", "C", "C"], {"options": "options", "id": "id"}, "B. heat\nC. dark\nAnswer:",
        {"B": True, "2": True, "heat": True, "C": False},
    ),
    "fpb": Published(
        "fpb",
        [{"question": "Please jusitfy the sentiment of the following sentence:\nSales rose .",
          "gt": "positive", "options": json.dumps(["negative", "neutral", "positive"]),
          "answer": "C"}],
        ["C"], {"options": "options"}, "Sales rose .\nA. negative\nB. neutral\nC. positive",
        {"C": True, "positive": True, "C. positive": True, "B": False, "not C": False},
    ),
    "usmle, the authors'": Published(
        "usmle",
        [{"question": "Which is best?", "meta_info": "step1", "answer": "B",
          "options": json.dumps(["wait", "treat", "refer", "test"])}],
        ["B"], {"options": "options"}, "B. treat", {"B": True, "treat": True, "D": False},
    ),
    "usmle, the hub's": Published(
        "usmle",
        [{"question": "Which is best?", "answer_idx": "B", "answer": "treat",
          "options": {"A": "wait", "B": "treat", "C": "refer", "D": "test"}}],
        ["B"], {"options": "options"}, "B. treat", {"B": True},
    ),
    "pubmedqa, the authors'": Published(
        "pubmedqa",
        [{"id": 5, "question": "Article: (Aims) We ask.\nQuestion: Does it help?", "answer": "C",
          "options": json.dumps(["No", "Maybe", "Yes"])},
         {"id": 6, "question": "Article: (Aims) We ask.\nQuestion: Does it harm?", "answer": "A",
          "options": json.dumps(["No", "Maybe", "Yes"])}],
        ["yes", "no"], {"options": "options", "id": "id"}, "Does it help?\nLabel:",
        {"yes": True, "Yes.": True, "maybe": False, "yes or no": False},
    ),
    "pubmedqa, the hub's": Published(
        "pubmedqa",
        [{"pubid": 5, "question": "Does it help?", "final_decision": "yes",
          "long_answer": "It does.",
          "context": {"contexts": ["We ask.", "We find."], "labels": ["AIMS", "RESULTS"],
                      "reasoning_required_pred": ["maybe"]}}],
        ["yes"], {"answer": "final_decision", "context": "context.contexts"},
        "We ask.\nWe find.\nDoes it help?\nLabel:", {"yes": True, "no": False},
    ),
    "convfinqa": Published(
        "convfinqa",
        [{"question": "What was the change in percent?", "answer": "14.1%"},
         {"question": "Was it more?", "answer": "yes"},
         {"question": "And the sum?", "answer": "1,234.5"}],
        ["14.1%", "yes", "1,234.5"], {}, "What was the change in percent?\nAnswer:",
        {"14.1%": True, "0.141": True, "It was 14.2%.": True, "15%": False, "yes": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_published_rows_are_read_shown_and_scored(name: str, tmp_path: Path) -> None:
    published = TASKS[name]
    context, examples = ingested(published, tmp_path)
    assert [row["answer"] for row in examples] == published.answers
    task = context.task
    prompt = task.messages(examples[0])[-1]["content"]
    assert published.shown in prompt
    # What the annotators said is nowhere in it.
    assert "reasoning" not in prompt and "long_answer" not in prompt and "It does." not in prompt
    said = pa.array(list(published.replies), pa.string())
    options = pa.array([examples[0]["options"]] * len(said), pa.list_(pa.string()))
    right = task.correct(task.parse(said, options), pa.array([published.answers[0]] * len(said)))
    assert dict(zip(published.replies, right.to_pylist(), strict=True)) == published.replies


def test_all_presets_are_looked_at() -> None:
    assert {published.preset for published in TASKS.values()} == TASK_PRESETS.keys()


def ingested(published: Published, folder: Path) -> tuple[Context, list[dict[str, Any]]]:
    table = pa.Table.from_pylist(published.rows)
    pq.write_table(table, folder / "labeled.parquet")
    others = [row | {"question": f"Another: {row['question']}"} for row in published.rows]
    pq.write_table(pa.Table.from_pylist(others), folder / "unlabeled.parquet")
    config = load_config(
        {
            "run_dir": str(folder / "run"),
            "model": {"name": "sim", "engine": "simulated"},
            "task": {"preset": published.preset},
            "data": {
                "labeled": str(folder / "labeled.parquet"),
                "unlabeled": str(folder / "unlabeled.parquet"),
                "columns": published.columns,
            },
        }
    )
    run = RunDirectory(config.run_dir)
    context = Context(config, run, StageLedger(run))
    context.ledger.begin("ingest", {}, {})
    done = ingest.run(context, 1)
    context.ledger.finish("ingest", done.outputs, (), done.statistics, 0)
    return context, context.labeled.to_pylist()


@pytest.mark.parametrize(
    ("said", "gold", "right"),
    [
        ("14.1%", "14.1%", True),
        ("Answer: 0.1412", "14.1%", True),
        ("The change was 14.1%", "14.1%", False),  # its first token is no number
        ("60.94 million", "60.9", True),
        ("1,234.5", "1234.5", True),
        ("10-12", "12", False),  # reads as 10 and -12
        ("10/12", "12", True),  # any number of the token
        ("yes", "yes", False),
        (None, "5", False),
        ("5", "5 of 7", True),
        (".5.", "0.5", True),
        ("Answer: $.44.4", "0.44", False),  # no number at all
        ("14" + "%" * 200, "14", False),
    ],
)
def test_convfinqa_as_the_authors_count(said: str | None, gold: str, right: bool) -> None:
    assert convfinqa_correct([said], [gold]) == [right]
