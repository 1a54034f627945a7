"""True answers: the dirt of real files is read, a doubtful one refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from semievol_ray import UserError
from semievol_ray.config import TaskConfig
from semievol_ray.tasks import (
    TASK_PRESETS,
    AnswerForm,
    Task,
    canonical_answer,
    option_letters,
)

FOUR = ["red", "green", "blue", "7"]


@pytest.mark.parametrize(
    ("raw", "letter"),
    [("A", "A"), ("b", "B"), ("(C)", "C"), ("D.", "D"), ("2", "B"), ("3.0", "C"),
     ("green", "B"), (" Blue ", "C"), ("7", "D")],
)  # fmt: skip
def test_multiple_choice_answers(raw, letter) -> None:
    found = canonical_answer(
        raw, kind="multiple_choice", options=FOUR, labels=None, form=AnswerForm(first_number=1)
    )
    assert found == letter


@pytest.mark.parametrize("raw", ["E", "0", "5", "yellow", "", "A or B", "²", "9" * 5000])
def test_an_answer_outside_the_options_is_refused(raw) -> None:
    with pytest.raises(ValueError, match="options|empty"):
        canonical_answer(
            raw, kind="multiple_choice", options=FOUR, labels=None, form=AnswerForm(first_number=1)
        )


def test_a_label_may_be_given_by_its_letter_among_the_options() -> None:
    """PubMedQA as the authors publish it: letters over ["No", "Maybe", "Yes"]."""
    task = Task.from_config(TaskConfig(preset="pubmedqa"))
    for raw, label in (("C", "yes"), ("A", "no"), ("maybe", "maybe")):
        found = canonical_answer(
            raw,
            kind=task.kind,
            options=["No", "Maybe", "Yes"],
            labels=task.labels,
            form=AnswerForm(),
        )
        assert found == label


def test_labels_ignore_case_and_nothing_else() -> None:
    labels = ["card_arrival", "lost_card"]
    arguments = {"kind": "label", "options": None, "labels": labels, "form": AnswerForm()}
    assert canonical_answer("Card_Arrival", **arguments) == "card_arrival"
    with pytest.raises(ValueError, match="not one of the 2 labels"):
        canonical_answer("card", **arguments)


def test_letters_go_on_after_z() -> None:
    letters = option_letters(703)
    assert [letters[i] for i in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"
    ]  # fmt: skip


def test_every_preset_makes_a_task() -> None:
    for name in TASK_PRESETS:
        assert Task.from_config(TaskConfig(preset=name)).instruction


def test_prompts_end_alike_with_demonstrations_and_proposals() -> None:
    task = Task.from_config(TaskConfig(preset="fpb"))
    example = {"question": "Profit rose.", "options": ["negative", "positive"], "answer": "B"}
    other = {"question": "Sales fell.", "options": ["negative", "positive"], "answer": "A"}
    plain = task.messages(example)
    shown = task.messages(example, [other])
    justified = task.justify_messages(example, ["B", "A"])
    tail = "Profit rose.\nA. negative\nB. positive\nAnswer:"
    assert all(m[-1]["content"].endswith(tail) for m in (plain, shown, justified))
    assert [m["role"] for m in shown] == ["user", "assistant", "user"]
    assert "B; A" in justified[0]["content"]


def test_a_users_own_task_in_yaml() -> None:
    task = Task.from_config(
        TaskConfig(
            kind="label",
            labels=("spam", "ham"),
            instruction="Is it spam?",
            question_template="Mail: {{ question }}\nVerdict:",
            answer_pattern=r"Verdict:\s*(\w+)",
        )
    )
    assert task.question({"question": "Buy!"}) == "Mail: Buy!\nVerdict:"
    found = task.parse(pa.array(["I think... Verdict: spam", "Verdict: eggs", None]))
    assert found.to_pylist() == ["spam", None, None]


def test_numbers_with_a_decimal_comma() -> None:
    task = Task.from_config(TaskConfig(kind="numeric", decimal_mark=","))
    texts = pa.array(["Das sind 1.234,5.", "rund 12,5 %", "1,2,3", None])
    assert task.parse(texts).to_pylist() == ["1234.5", "0.125", None, None]
    assert task.ambiguous(texts) == 1
    right = task.correct(task.parse(texts), pa.array(["1234,5", "12,5%", "3", "1"]))
    assert right.to_pylist() == [True, True, False, False]
    assert Task.from_config(TaskConfig(kind="numeric")).ambiguous(texts) == 3
    assert Task.from_config(TaskConfig(kind="text")).ambiguous(texts) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "mmul"}, "unknown preset 'mmul'; known: mmlu"),
        ({}, "task.kind: say what kind"),
        ({"kind": "text", "question_template": "{% if %}"}, "task.question_template"),
    ],
)
def test_a_wrong_task_is_one_line(values, message) -> None:
    with pytest.raises(UserError, match=message):
        Task.from_config(TaskConfig(**values))


def test_a_template_cannot_reach_into_python() -> None:
    task = Task.from_config(
        TaskConfig(kind="text", question_template="{{ question.__class__.__mro__ }}")
    )
    with pytest.raises(Exception, match="unsafe|access"):
        task.question({"question": "x"})


def test_an_open_answer_is_kept_as_it_is_written() -> None:
    arguments = {"options": None, "labels": None, "form": AnswerForm()}
    poem = "Two lines,\n  the second indented."
    assert canonical_answer(f" {poem}\n", kind="text", **arguments) == poem
    assert canonical_answer("14.1 %", kind="numeric", **arguments) == "14.1 %"
