"""One form of answer holds for a whole column; a column that contradicts itself is refused."""

from __future__ import annotations

import pytest

from semievol_ray import UserError
from semievol_ray.tasks import AnswerEvidence

WORDS = ["red", "green", "blue", "grey"]
NUMBERS = ["1", "2", "3", "4"]
SHIFTED = ["2", "3", "0", "1"]


def evidence(*rows: tuple[str, list[str]]) -> AnswerEvidence:
    found = AnswerEvidence()
    for number, (answer, options) in enumerate(rows, start=1):
        found.add(answer, options, f"x.csv: row {number}")
    return found


@pytest.mark.parametrize(
    ("rows", "given", "letters", "said"),
    [
        ([("B", WORDS), ("d", WORDS)], None, "BD", "letters (2)"),
        ([("0", WORDS), ("3", WORDS)], None, "AD", "numbers from 0 (2)"),
        ([("1", WORDS), ("4", WORDS)], None, "AD", "numbers from 1 (2)"),
        ([("1", WORDS), ("2", WORDS)], 0, "BC", "numbers from 0 (2)"),
        ([("green", WORDS), ("Grey", WORDS)], None, "BD", "texts of options (2)"),
        # Letters with a few numbers among them, as ARC has them.
        ([("B", WORDS), ("4", WORDS)], None, "BD", "letters (1), numbers from 1 (1)"),
        ([("B", WORDS), ("grey", WORDS)], None, "BD", "letters (1), texts of options (1)"),
        # Options that are numbers: the rest of the column says what is meant.
        ([("0", WORDS), ("2", SHIFTED)], None, "AC", "numbers from 0 (2)"),
        ([("4", WORDS), ("2", SHIFTED)], None, "DB", "numbers from 1 (2)"),
        ([("grey", WORDS), ("2", SHIFTED)], None, "DA", "texts of options (2)"),
        ([("B", ["B", "C", "A"]), ("A", WORDS)], None, "BA", "letters (2)"),
        # Text and number agree: nothing to decide.
        ([("2", NUMBERS), ("4", NUMBERS)], None, "BD", "texts of options (2)"),
    ],
)
def test_the_form_is_that_of_the_whole_column(rows, given, letters, said) -> None:
    found = evidence(*rows)
    form = found.form("auto", given)
    assert "".join(form.letter(answer, options) for answer, options in rows) == letters
    assert said in found.describe(form)


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        ([("0", WORDS), ("4", WORDS)], None, "from 1 and from 0 in one column"),
        ([("1", WORDS), ("2", WORDS)], None, "set task.first_option_number"),
        ([("1", WORDS), ("4", WORDS)], 0, "row 2: '4' of 4 options: the answers count the options"),
        ([("0", WORDS)], 1, "from 0, and task.first_option_number is 1; set it to 0"),
        ([("0", WORDS), ("red", WORDS), ("2", SHIFTED)], None, "row 3: '2' of 4 options: the text"),
        ([("2", SHIFTED), ("3", SHIFTED)], 0, "set data.answers: mark, or text"),
    ],
)
def test_a_contradiction_is_refused_with_its_rows(rows, given, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evidence(*rows).form("auto", given)
    assert "\n" not in str(caught.value)


def test_the_users_word_decides() -> None:
    rows = [("2", SHIFTED), ("3", SHIFTED)]
    marks, texts = (evidence(*rows).form(asked, 0) for asked in ("mark", "text"))
    assert [marks.letter(a, o) for a, o in rows] == ["C", "D"]
    assert [texts.letter(a, o) for a, o in rows] == ["A", "B"]


def test_a_row_that_is_both_is_no_answer_where_either_may_be() -> None:
    form = evidence(("B", WORDS), ("grey", WORDS)).form("auto", 1)
    with pytest.raises(ValueError, match="the text of one option and the mark of another"):
        form.letter("2", SHIFTED)
