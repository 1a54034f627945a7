"""Tokenisation: what is learnt, what is cut, what is dropped, what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray.config import TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer
from semievol_ray.schema import TRAINING
from semievol_ray.training import data
from semievol_ray.training.token_cache import TokenizedExamples
from tests.training.conftest import make_row


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def tokens_of(tokenizer: Any, rows: list[dict[str, Any]], max_length: int = 100) -> Any:
    table = pa.Table.from_pylist(rows, schema=TRAINING)
    return TokenizedExamples([data.tokenize(table, tokenizer, max_length)])


def row(prompt: str, *candidates: str, weight: float = 1.0, shares: Any = None) -> dict[str, Any]:
    return {
        "example_id": prompt + candidates[0],
        "prompt": prompt,
        "candidates": list(candidates),
        "candidate_weights": shares or [1 / len(candidates)] * len(candidates),
        "weight": weight,
    }


def test_an_answer_is_its_tokens_and_eos(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("ab:", " yes", " no", weight=0.5)])
    assert tokenizer.decode(found.prompt(0)) == "ab:"
    answers = [found.candidate(c) for c in found.candidates_of(0)]
    assert [tokenizer.decode(a) for a in answers] == [" yes</s>", " no</s>"]
    assert all(w == 0.25 for c in found.candidates_of(0) for w in found.token_weights(c))


def test_a_token_has_its_examples_its_candidates_and_its_own_weight(tokenizer: Any) -> None:
    weighed = row("a", "bc", "d", weight=2.0, shares=[0.75, 0.25])
    found = tokens_of(tokenizer, [weighed | {"token_weights": [[1, 2, 0.5], [0, 4]]}])
    assert found.token_weights(0).tolist() == [1.5, 3, 0.75]
    assert found.token_weights(1).tolist() == [0, 2]
    assert found.target_weight(pa.array([0]).to_numpy()) == 7.25


def test_a_null_inside_a_list_is_refused(tokenizer: Any) -> None:
    good = row("a", "bc")
    for name, value in (("candidates", [None]), ("candidate_weights", [None]),
                        ("token_weights", [[1, None, 1]]), ("token_weights", [None])):  # fmt: skip
        with pytest.raises(UserError, match=f"example abc: a null in {name}"):
            tokens_of(tokenizer, [row("b", "c"), good | {name: value}])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([[1, 1]], r"example abc: token_weights of \[2\].*candidates of \[3\]"),
     ([[1, -1, 1]], "example abc: a token weight is negative")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(tokenizer: Any, weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokens_of(tokenizer, [row("a", "bc") | {"token_weights": weights}])


def test_a_long_prompt_loses_its_middle_and_the_answer_nothing(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("0123456789", "abc"), row("01", "abc")], max_length=11)
    # Ten characters of prompt; "abc" is read, the end only predicted: 11 - 3 are left.
    assert tokenizer.decode(found.prompt(0)) == "01456789"
    assert tokenizer.decode(found.candidate(0)) == "abc</s>"
    assert tokenizer.decode(found.prompt(1)) == "01"
    assert found.truncated_rows == 1


@pytest.mark.parametrize("answer", [1, 50, 97, 98, 300])
def test_instruction_question_and_mark_outlive_every_cut(tokenizer: Any, answer: int) -> None:
    prompt = "<s>Say which team. " + "long context " * 40 + "Who answers?\nTeam:"
    rows = [row(prompt, "x" * answer), row("ab", "yes")]
    found = tokens_of(tokenizer, rows, max_length=196)
    if answer > 98:  # it would leave its prompt less than half
        assert (len(found), found.dropped_rows, found.truncated_rows) == (1, 1, 0)
        return
    kept = tokenizer.decode(found.prompt(0))
    assert kept.startswith("<s>Say which team. ") and kept.endswith("Who answers?\nTeam:")
    assert len(found.prompt(0)) == 196 - answer >= 98
    assert len(found.candidate(0)) == answer + 1


def test_a_long_answer_to_a_short_question_has_all_the_room_that_is_left(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("ab", "x" * 6)], max_length=8)
    assert (len(found), found.truncated_rows, len(found.candidate(0))) == (1, 0, 7)


def test_an_answer_that_does_not_fit_is_dropped_and_counted(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("ab", "x" * 50), row("ab", "yes")], max_length=8)
    assert len(found) == 1 and found.dropped_rows == 1


def test_too_many_dropped_answers_stop_the_training(tokenizer: Any) -> None:
    rows = [row(f"{i:02}", "x" * (50 + i) if i < 2 else "yes") for i in range(20)]
    found = tokens_of(tokenizer, rows, max_length=8)
    found.check_dropped(TrainingConfig(max_length=8, max_dropped=0.1), 8)
    with pytest.raises(
        UserError, match="max_length: 2 of 20 answers.*example 01x.*52 tokens.*0.05"
    ):
        found.check_dropped(TrainingConfig(max_length=8), 8)
    with pytest.raises(UserError, match=r"\(8 by the model's positions, .*take another model, or"):
        found.check_dropped(TrainingConfig(max_length=9), 8)
    nothing = tokens_of(tokenizer, rows[:2], max_length=8)
    with pytest.raises(UserError, match="max_length: 2 of 2 answers"):
        nothing.check_dropped(TrainingConfig(max_length=8, max_dropped=0.99), 8)
    weightless = tokens_of(tokenizer, [row("a", "b", weight=0)])
    with pytest.raises(UserError, match="none of the 1 training examples"):
        weightless.check_dropped(TrainingConfig(), 100)


def test_a_candidate_of_weight_0_is_left_out(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("ab", "x", "y", shares=[1.0, 0.0])])
    assert len(found.candidates_of(0)) == 1


def test_an_empty_prompt_teaches_all_of_the_text_but_its_first_token(tokenizer: Any) -> None:
    found = tokens_of(tokenizer, [row("", "abcd")])
    assert found.target_weight(pa.array([0]).to_numpy()) == 4


def test_a_held_out_split_depends_on_ids_and_seed_alone(tokenizer: Any) -> None:
    rows = [make_row(i, soft=False) for i in range(40)]
    kept, held = tokens_of(tokenizer, rows).split(0.25, seed=1)
    assert len(held) == 10 and sorted([*kept, *held]) == list(range(40))
    _, held_reversed = tokens_of(tokenizer, rows[::-1]).split(0.25, seed=1)
    assert sorted(39 - held_reversed) == sorted(held)
    _, held_otherwise = tokens_of(tokenizer, rows).split(0.25, seed=2)
    assert sorted(held_otherwise) != sorted(held)
