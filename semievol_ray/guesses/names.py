"""What columns are called in data sets as they are published.

Compared without case, blanks and signs: `reviewText`, `review_text` and `Review Text ` are one. A
name that is not known itself goes by its last word (`medical_abstract`, `condition_label`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import ascii_lowercase

QUESTIONS = (
    "question", "instruction", "text", "message", "prompt", "query", "input", "sentence",
    "utterance", "tweet", "review", "reviewtext", "reviewbody", "comment", "content", "body",
    "post", "email", "description", "dialogue", "claim", "statement", "problem", "hypothesis",
    "document", "article", "abstract", "passage", "ctx", "startphrase", "goal", "headline", "title",
)  # fmt: skip
ANSWERS = (
    "answer", "label", "answerkey", "goldlabel", "gold", "correctanswer", "finaldecision", "target",
    "cop", "category", "team", "gt", "class", "classindex", "output", "response", "completion",
    "sentiment", "intent", "emotion", "topic", "overall", "stars", "rating", "score", "solution",
    "summary", "highlights", "isduplicate", "labels", "answers", "tag",
)  # fmt: skip
TOLD, WRITTEN = ("instruction", "prompt"), ("output", "response", "completion")
OPTIONS = ("options", "choices", "candidates", "endings")
CONTEXTS = (
    "context", "contexts", "passage", "article", "document", "abstract", "paragraph", "premise",
    "background", "support", "evidence", "story",
)  # fmt: skip
# The first of a pair is the context, the second is asked about.
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("text1", "text2"), ("sentencea", "sentenceb"),
)  # fmt: skip
# Beside what is asked, what it is asked of; beside a text, what stands above it.
ASKED = ("question", "query", "instruction", "prompt", "claim", "statement")
BODIES = ("input", "text", "sentence", "content", "body", "dialogue")
TITLES = ("title", "headline", "subject")
# Columns whose whole numbers are classes, however few rows there are of each.
CLASSES = (
    "label", "class", "classindex", "category", "overall", "stars", "rating", "sentiment", "gold",
)  # fmt: skip
CHATS = ("messages", "conversations", "conversation", "dialog")
# How columns that hold an option each begin: opa, opb; option1, option2; A, B; ending0, ending1.
_FAMILIES = ("", "op", "opt", "option", "choice", "sol", "solution", "ending", "answer")
_COUNTS = (ascii_lowercase, "0123456789", "123456789")
# `label_text` is a label, `comment_text` a text.
_OF_NAMES = ("text", "name", "desc", "description")
_LONGEST, _MOST_WORDS = 40, 4


def plain(name: str) -> str:
    """A column's name as the lists above have it."""
    return "".join(character for character in name.casefold() if character.isalnum())


def first_of(names: Sequence[str], known: Sequence[str], *, exact: bool = False) -> str | None:
    """The column that is called the first of some known names; else one that ends with it."""
    for form in (plain,) if exact else (plain, _last_word):
        forms = [form(name) for name in names]
        found = next((wanted for wanted in known if wanted in forms), None)
        if found is not None:
            return names[forms.index(found)]
    return None


def families(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Runs of columns that may hold an option each."""
    by_plain = {plain(name): name for name in reversed(names)}
    for beginning in _FAMILIES:
        for count in _COUNTS if beginning else _COUNTS[:1]:
            run = []
            for mark in count:
                if beginning + mark not in by_plain:
                    break
                run.append(by_plain[beginning + mark])
            if len(run) > 1:
                yield tuple(run)


def is_data(name: str) -> bool:
    """Whether a name looks like a cell: a header line is missing."""
    return len(name) > _LONGEST or len(name.split()) > _MOST_WORDS or plain(name).isdecimal()


def _last_word(name: str) -> str:
    # What holds other signs is a line of a file without names, or parted otherwise.
    if is_data(name) or not re.fullmatch(r"[\w .-]+", name):
        return ""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", name).casefold().split()
    if len(words) > 1 and words[-1] in _OF_NAMES and words[-2] in ANSWERS:
        words.pop()
    return words[-1] if words else ""
