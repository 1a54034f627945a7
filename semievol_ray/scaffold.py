"""`semievol init`: look at the user's files, guess the columns and the task, write a config.

The guess is written down with its reason beside it: it is the user's to correct.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from semievol_ray.errors import UserError
from semievol_ray.guesses import (
    Guess,
    Looked,
    check_file,
    guess_columns,
    guess_task,
    left_out,
    look,
)
from semievol_ray.guesses.files import Named
from semievol_ray.new_files import new_file
from semievol_ray.tasks.presets import KIND_DEFAULTS

# On average; of fewer too little is left to learn from once a fifth is held out.
_LABELS_A_CLASS = 5
# Of the corpus only what it has is asked.
_OF_CORPUS = 1000
_MOST_NAMED = 20
_WIDTH = 88


def write_config(
    labeled: str,
    unlabeled: str,
    test: str | None,
    model: str,
    output: str,
    columns: Mapping[str, Named] | None = None,
) -> tuple[Path, list[str]]:
    """Write a commented YAML config for some files; returns its path, and what is to be said.

    `columns` are those that the user names (question, answer, context, options); the others are
    guessed. Raises UserError where a file is missing or empty, a column cannot be guessed, or the
    config is already there.
    """
    path = Path(output)
    if path.exists():
        raise UserError(f"{output}: already there; give another --output")
    rows = look(labeled, "--labeled")
    others = {"data.unlabeled": look(unlabeled, "--unlabeled", _OF_CORPUS)}
    if test:
        others["data.test"] = look(test, "--test")
    found, notes = guess_columns(rows, [*others.values()], columns or {})
    guess = guess_task(rows, found)
    notes += [*guess.notes, *([guess.doubt] if guess.doubt else [])]
    for setting, file in others.items():
        notes += check_file(file, setting, found, guess, rows)
    lines = [
        "# A first config. Every other setting has a default; `preset: upstream` is the",
        "# authors' released code, `preset: paper` the paper.",
        f"run_dir: {_plain(f'runs/{path.stem}')}",
        "preset: paper",
        f"model: {{name: {_quoted(model)}}}   # engine: vllm where installed, else transformers",
        *_task(guess),
        "data:",
        f"  labeled: {_quoted(labeled)}",
        f"  unlabeled: {_quoted(unlabeled)}",
        *([f"  test: {_quoted(test)}"] if test else ["  # test: data/test.csv"]),
        f"  columns: {{{', '.join(f'{key}: {_quoted(name)}' for key, name in found.items())}}}",
        *_unused(left_out(rows, found)),
        "# Chosen by labels that are held out; the paper has 1e-4 and 2 epochs, for models of 8B:",
        "training: {learning_rate: auto, epochs: auto}",
    ]
    if _is_for_classifiers(guess.kind, rows, found):
        lines += [
            "# Voters of three kinds, weighed by a fifth of the labels, which a second warm model",
            "# has not seen: of what was measured the best for closed answers. Without these three",
            "# lines it is the paper's policy.",
            "collaborators: [{model: warm}, {model: probe}, {model: propagation}]",
            "selection: {policy: stacked, percentile: 75}",
            "# Of many classes, which the other voters know better than the model, teach all rows:",
            "# selection: {policy: stacked, percentile: 100}",
            "# evolve: {soft_targets: true}   # each as doubtful as the voters were",
            "# A second round, whose model labels all anew, takes twice as long, and gained on",
            "# one of two data sets:",
            "# selection: {policy: stacked, percentile: [75, 90]}",
            "# iteration: {rounds: 2, mode: relabel, refit: true}",
            "justify: {when: never}   # stacked reads the options' probabilities instead",
            "# Two of them are mostly better over sentence embeddings (an extra, and a model):",
            "# retrieval: {embedder: sentence-transformers}",
        ]
    elif guess.kind in ("label", "multiple_choice"):
        lines += [
            "# For closed answers the policy `balanced` was better than `paper` in our benchmarks:",
            "# selection: {policy: balanced}",
            "# evolve: {soft_targets: true}",
            "# justify: {when: never}   # balanced reads the options' probabilities instead",
        ]
    if test and guess.kind in ("label", "multiple_choice"):
        said = "The most probable option counts, written or not"
        references = ""
        if guess.kind == "label":
            said += "; what you would try first is compared, too"
            references = ", references: [{embedder: tfidf}]"
        lines += [f"# {said}:", f"evaluation: {{closed_answers: score{references}}}"]
    with new_file(path) as sink:
        sink.write(("\n".join(lines) + "\n").encode())
    return path, notes


def _task(guess: Guess) -> list[str]:
    """The section `task`, in one line where the kind says it all."""
    more: list[str] = []
    if guess.codes:
        told = KIND_DEFAULTS["label"]["instruction"]
        shown = ", ".join(f"{code}: …" for code in guess.codes[:_MOST_NAMED])
        more += [
            "# Names tell the model more than numbers do, and task.labels renames none: write them",
            "# into the data, or say here what the numbers stand for:",
            f"# instruction: {_quoted(f'{told} {shown}')}",
        ]
    if guess.labels:
        more += [
            "# What differs from one of these in case or blanks alone is read as that one:",
            f"labels: {_quoted(guess.labels)}",
        ]
    if guess.comma:
        more += [f'decimal_mark: ","   # as in {guess.comma}']
    if guess.instruction:
        more += [f"instruction: {_quoted(guess.instruction)}"]
    if guess.pattern:
        more += [*_comment(guess.because), f"answer_pattern: {_quoted(guess.pattern)}"]
    if guess.doubt:
        more += _comment(f"{guess.doubt[0].upper()}{guess.doubt[1:]}.")
    if guess.scores:
        more += ["# relative_tolerance: 0.1   # a reply within 10 % of the answer counts"]
    if not more:
        return [f"task: {{kind: {guess.kind}}}   # {guess.why}"]
    return ["task:", *(f"  {line}" for line in (f"kind: {guess.kind}   # {guess.why}", *more))]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]


def _unused(names: list[str]) -> list[str]:
    shown = ", ".join(_quoted(name) for name in names[:_MOST_NAMED])
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMED else ""
    return [f"  # not used: {shown}{more}"] if names else []


def _is_for_classifiers(kind: str, labeled: Looked, columns: Mapping[str, Named]) -> bool:
    """Whether all examples share their answers, with some labels of each, as classifiers need."""
    if kind == "multiple_choice":
        options = labeled.options(columns["options"])
        return len({tuple(row.texts) for row in options if row.texts}) == 1
    answers = [text.casefold() for text in labeled.texts(str(columns["answer"])) if text]
    return kind == "label" and len(answers) >= _LABELS_A_CLASS * len(set(answers))


def _plain(text: str) -> str:
    """A text without quotes where YAML needs none."""
    return text if re.fullmatch(r"[\w./-]+", text) else _quoted(text)


def _quoted(value: Named) -> str:
    """A text, or a list of texts, as YAML reads it back wherever it stands."""
    # JSON's own escapes of what lies beyond 16 bits are two halves to YAML.
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
