"""The canonical spelling of a true answer, as the user's file has it.

Answers that models write are read by `Task.parse`; true ones come here, where a doubtful one is
refused instead of guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from semievol_ray.tasks.forms import AnswerForm, option_letters


@lru_cache
def _by_name(labels: tuple[str, ...]) -> dict[str, str]:
    return {" ".join(label.split()).casefold(): label for label in labels}


def canonical_answer(
    text: str,
    *,
    kind: str,
    options: Sequence[str] | None,
    labels: Sequence[str] | None,
    form: AnswerForm,
    words: bool = False,
) -> str:
    """A true answer as the tables hold it: letter or label, and an open answer as it is written.

    Where an example has options, the answer names one of them in the column's form; a label task's
    answer is that option's text. With `words` a number may be a word. Raises ValueError, saying
    what was expected, for an answer outside the options or labels.
    """
    text = text.strip()
    if not text:
        raise ValueError("the answer is empty")
    if kind in ("multiple_choice", "label"):
        text = " ".join(text.split())
    if kind == "multiple_choice":
        return form.letter(text, options or ())
    if kind == "label" and options:
        text = options[option_letters(len(options)).index(form.letter(text, options))]
    if kind == "label" and labels is not None:
        by_name = _by_name(tuple(labels))
        if text.casefold() not in by_name:
            raise ValueError(f"answer {text!r} is not one of the {len(labels)} labels")
        return by_name[text.casefold()]
    if kind == "numeric" and not words and not any(character.isdigit() for character in text):
        raise ValueError(f"answer {text!r} is not a number")
    return text
