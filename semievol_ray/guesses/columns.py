"""Which column holds what, by its name and by what its cells say.

What the user names is taken, and the rest is guessed around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semievol_ray.errors import UserError
from semievol_ray.guesses.answers import is_number
from semievol_ray.guesses.files import Looked, Named, texts_in
from semievol_ray.guesses.names import (
    ANSWERS,
    ASKED,
    BODIES,
    CHATS,
    CONTEXTS,
    OPTIONS,
    PAIRS,
    QUESTIONS,
    TITLES,
    TOLD,
    WRITTEN,
    families,
    first_of,
    is_data,
)
from semievol_ray.guesses.task import are_classes, names_options
from semievol_ray.sources import are_lists_of_texts, cell_options, cell_text

Columns = dict[str, Named]

_ORDER = ("id", "question", "context", "options", "answer")
# An answer so long that stands in another column was copied there.
_LONG_ANSWER = 20
_MOST_SHOWN = 8


def guess_columns(
    labeled: Looked, others: Sequence[Looked], asked: Mapping[str, Named]
) -> tuple[Columns, list[str]]:
    """The columns of a config, and what there is to say of them; `others`: corpus and test set.

    `asked` are those that the user names. Raises UserError where one of these is not there, or
    there is nothing that a question or an answer could be.
    """
    for key, name in asked.items():
        for one in _each(name):
            if not labeled.has(one):
                raise UserError(f"--{key}: {labeled.where}: {_no_column(one, labeled)}")
        if len(set(_each(name))) < len(_each(name)):
            raise UserError(f"--{key}: a column is there twice")
    columns = dict(asked)
    notes = _options_by_name(labeled, columns)
    _question(labeled, columns)
    notes += _answer(labeled, columns)
    _options_of_their_own(labeled, columns)
    if "context" not in columns and (found := _context(labeled, columns)):
        columns["context"] = found
    if named := None if "answer" in asked else _named_classes(labeled, others, columns):
        notes.append(f"{named!r} names the numbers in {columns['answer']!r}, and is the answer")
        columns["answer"] = named
    notes += _id(labeled, others, columns)
    if "context" not in asked and "context" in columns:
        notes += _without_context(columns, others)
    return {key: columns[key] for key in _ORDER if key in columns}, notes


def left_out(labeled: Looked, columns: Columns) -> list[str]:
    """The columns that say something, and that a config does not name."""
    used = {name.partition(".")[0] for name in _taken(columns)} | _taken(columns)
    return [name for name in labeled.names if name not in used and labeled.cells(name)]


def _question(labeled: Looked, columns: Columns) -> None:
    """The question, and the context where the two are a pair."""
    if "question" in columns:
        _refuse_unreadable(labeled, str(columns["question"]), "question")
        return
    free = _free(labeled, columns)
    for first, second in PAIRS:
        of_it, it = first_of(free, (first,), exact=True), first_of(free, (second,), exact=True)
        if of_it and it and "context" not in columns:
            columns |= {"context": of_it, "question": it}
            return
    found = first_of(free, QUESTIONS) or first_of(labeled.names, QUESTIONS)
    if found is None:
        raise UserError(f"{labeled.where}: {_nothing_like('question', labeled)}")
    columns["question"] = found
    _refuse_unreadable(labeled, found, "question")


def _answer(labeled: Looked, columns: Columns) -> list[str]:
    """The answer; what is to be said where a column holds lists as texts."""
    is_asked = "answer" in columns
    name = str(columns["answer"]) if is_asked else _called_as_answer(labeled, columns)
    _refuse_unreadable(labeled, name, "answer")
    columns["answer"] = name
    if not _are_lists(labeled, name):
        return []
    said = (
        f"the answers in {name!r} are lists of texts, written as JSON; a row has one answer: write "
        "the one that counts into a column of its own, and name that with --answer"
    )
    if is_asked:
        return [f"{said}; as it is, each list as a whole is the answer"]
    # Beside options they are several right ones, which no other column tells.
    passed = [name]
    if not _lists_name_options(labeled, columns):
        while other := _answer_that_says(labeled, columns, passed):
            if not _are_lists(labeled, other):
                columns["answer"] = other
                shown = ", ".join(map(repr, passed))
                return [
                    f"passed over for the answer: {shown}, whose answers are lists of texts, "
                    f"written as JSON; {other!r} is taken; --answer={name} takes each list as a "
                    "whole"
                ]
            passed.append(other)
    raise UserError(
        f"{labeled.where}: {said}; --answer={name} takes each list as a whole for the answer"
    )


def _called_as_answer(labeled: Looked, columns: Columns) -> str:
    others = [name for name in labeled.names if name not in _taken(columns)]
    known = _known_answers(columns)
    found = _answer_that_says(labeled, columns, ()) or first_of(others, known)
    if found is None:
        raise UserError(f"{labeled.where}: {_nothing_like('answer', labeled)}")
    return found


def _answer_that_says(labeled: Looked, columns: Columns, passed: Sequence[str]) -> str | None:
    """A column that is called as answers are and holds texts, beside those passed over."""
    free = [name for name in _free(labeled, columns) if name not in passed]
    return first_of(free, _known_answers(columns))


def _known_answers(columns: Columns) -> Sequence[str]:
    if first_of([str(columns["question"])], TOLD, exact=True):
        # What is told to be done is answered at length, and classified beside.
        at = ANSWERS.index("cop")
        return (*ANSWERS[:at], *WRITTEN, *ANSWERS[at:])
    return ANSWERS


def _are_lists(labeled: Looked, name: str) -> bool:
    return are_lists_of_texts(filter(None, labeled.texts(name)))


def _lists_name_options(labeled: Looked, columns: Columns) -> bool:
    """Whether there are options, by their column's name or as what the lists begin with."""
    if "options" in columns:
        return True
    lists = [json.loads(text) if text else [] for text in labeled.texts(str(columns["answer"]))]
    firsts = [members[0] if members else "" for members in lists]
    runs = families(_free(labeled, columns))
    return any(names_options(firsts, labeled.options(run), bare=False) for run in runs)


def _options_by_name(labeled: Looked, columns: Columns) -> list[str]:
    """The column that is called so, if it holds options; what is to be said where it does not."""
    filled = [name for name in labeled.names if labeled.cells(name)]
    found = columns.get("options") or first_of(filled, OPTIONS, exact=True)
    if found is None:
        return []
    if not isinstance(found, str) or any(row.texts for row in labeled.options(found)):
        columns["options"] = found
        return []
    why = ""
    try:
        cell_options(next(iter(labeled.cells(found)), None), found)
    except ValueError as error:
        why = f": {error}"
    said = f"{labeled.where}: the column {found!r} holds no options{why}"
    if "options" in columns:
        raise UserError(f"{said}; write JSON lists, or a column for each option")
    return [said]


def _options_of_their_own(labeled: Looked, columns: Columns) -> None:
    if "options" in columns:
        return
    answers = labeled.texts(str(columns["answer"]))
    for run in families(_free(labeled, columns)):
        bare = all(len(name.strip()) == 1 for name in run)
        if names_options(answers, labeled.options(run), bare=bare):
            columns["options"] = run
            return


def _context(labeled: Looked, columns: Columns) -> str | None:
    question = str(columns["question"])
    free = [name for name in labeled.names if name not in _taken(columns)]
    if found := first_of(free, CONTEXTS, exact=True):
        if _is_prose(labeled, found):
            return found
        # PubMedQA has its passages in a field.
        fields = dict.fromkeys(
            field for cell in labeled.cells(found) if isinstance(cell, Mapping) for field in cell
        )
        inner = first_of([*map(str, fields)], (*CONTEXTS, *BODIES), exact=True)
        if inner and _is_prose(labeled, f"{found}.{inner}"):
            return f"{found}.{inner}"
    asks = first_of([question], ASKED) is not None
    found = first_of(_free(labeled, columns), BODIES if asks else TITLES, exact=True)
    return None if found is None or _tells(labeled, found, columns) else found


def _is_prose(labeled: Looked, column: str) -> bool:
    """Whether a column says something in words: no names of documents, no addresses, no counts."""
    said = [text for text in labeled.texts(column, joined=True) if text]
    # Not everybody writes blanks between words.
    words = sum(len(text.split()) > 1 or (len(text) > 20 and not text.isascii()) for text in said)
    return 2 * words > len(said)


def _tells(labeled: Looked, column: str, columns: Columns) -> bool:
    """Whether a column repeats the answers: Alpaca's `text` is the whole conversation."""
    answers = labeled.texts(str(columns["answer"]))
    pairs = zip(answers, labeled.texts(column), strict=True)
    long = [answer in text for answer, text in pairs if len(answer) >= _LONG_ANSWER]
    return 2 * sum(long) > len(long)


def _named_classes(labeled: Looked, others: Sequence[Looked], columns: Columns) -> str | None:
    """A column of texts that are one to one with the answer's numbers: `label_text`."""
    answer = str(columns["answer"])
    numbers = labeled.texts(answer)
    if "options" in columns or not are_classes([n for n in numbers if n], answer):
        return None
    # A corpus without labels may well lack it; a test set that has the numbers may not.
    needed = [file for file in others if file.has(answer)]
    for name in _free(labeled, columns):
        pairs = {p for p in zip(numbers, labeled.texts(name), strict=True) if p[0]}
        texts = {text for _, text in pairs}
        are_names = "" not in texts and not any(map(is_number, texts)) and texts - {"true", "false"}
        one_to_one = len(pairs) == len(texts) == len({number for number, _ in pairs})
        if are_names and one_to_one and all(file.has(name) for file in needed):
            return name
    return None


def _without_context(columns: Columns, others: Sequence[Looked]) -> list[str]:
    """Take a guessed context back that another file does not have; what is to be said then."""
    name = str(columns["context"])
    lacking = next((file for file in others if not file.has(name)), None)
    if lacking is None:
        return []
    del columns["context"]
    return [f"{name!r} would be the context, but {lacking.where}: {_no_column(name, lacking)}"]


def _id(labeled: Looked, others: Sequence[Looked], columns: Columns) -> list[str]:
    """The id, where each row of every file has its own; what is to be said where that is not so."""
    name = first_of(labeled.names, ("id",), exact=True)
    if name is None or name in _taken(columns):
        return []
    for file in (labeled, *others):
        said = file.texts(name)
        if len(set(said) - {""}) < len(said):
            return [f"{name!r} is no id: rows of {file.where} have none, or one that is not unique"]
    columns["id"] = name
    return []


def _each(name: Named) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _taken(columns: Mapping[str, Named]) -> set[str]:
    return {one for name in columns.values() for one in _each(name)}


def _free(labeled: Looked, columns: Columns) -> list[str]:
    """The columns that say something in words, and are nothing yet."""
    taken = _taken(columns)
    return [name for name in labeled.names if name not in taken and labeled.says(name)]


def _refuse_unreadable(labeled: Looked, name: str, key: str) -> None:
    if labeled.says(name):
        return
    cell = next((cell for cell in labeled.cells(name) if cell not in ("", b"")), None)
    if cell is None:
        raise UserError(f"{labeled.where}: the column {name!r}, the {key}, is empty")
    if isinstance(cell, list | tuple | Mapping):
        raise UserError(f"{labeled.where}: {_nested(labeled, cell, name, key)}")
    try:
        cell_text(cell, name)
    except ValueError as error:
        raise UserError(f"{labeled.where}: {error}; say which with --{key}") from None


def _nested(labeled: Looked, cell: Any, name: str, key: str) -> str:
    """What to do about cells that hold other cells, in one line."""
    found = [text for inner in labeled.cells(name) for text in texts_in(inner, name)]
    named = [text for text in dict.fromkeys(found) if labeled.says(text)]
    # SQuAD's answers have where they begin beside them.
    named.sort(key=lambda text: all(is_number(said) for said in labeled.texts(text) if said))
    shown = ", ".join(named[:_MOST_SHOWN]) + (", …" if len(named) > _MOST_SHOWN else "")
    is_list = isinstance(cell, list | tuple)
    said = f"the {key} in {name!r} is {'a list' if is_list else 'an object'}; a row has one {key}"
    if not named:
        return f"{said}: write it into a column of its own, and name that with --{key}"
    first = " (0: the first of a list)" if any(".0" in text for text in named) else ""
    whole = (
        "" if is_list or key != "answer" else "; an answer of several fields is JSON in one text"
    )
    return (
        f"{said}: say which with --{key}, as --{key}={named[0]}; there are {shown}{first}; or "
        f"write it into a column of its own{whole}"
    )


def _nothing_like(key: str, labeled: Looked) -> str:
    """Why no column was found for a key, and what to do, in one line."""
    names = labeled.names
    if not names:
        return "no row holds anything"
    mark = next((mark for mark in ("\t", ";", "|") if mark in names[0]), None)
    if mark is not None:
        return (
            f"the fields seem to be parted by {mark!r}: {names[0]!r} is one column; save it with "
            "commas, or with tabs as .tsv"
        )
    if any(map(is_data, names)):
        return (
            "its first line looks like a row, and not like the names of the columns; write one "
            "above it, as text,label"
        )
    if chat := first_of(names, CHATS, exact=True):
        return (
            f"{chat!r} holds chats; write what is asked into a column 'question' and what is "
            "answered into a column 'answer', without roles"
        )
    return (
        f"no column looks like the {key}; it has {labeled.listed}; name one with --{key}, or "
        f"rename it to {key!r}"
    )


def _no_column(name: str, file: Looked) -> str:
    return f"no column {name!r}; it has {file.listed}"
