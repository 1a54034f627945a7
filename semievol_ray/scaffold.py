"""`semievol init`: look at the user's files, guess the columns and the task, write a config.

The guess is written down with its reason beside it: it is the user's to correct.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol_ray.errors import UserError
from semievol_ray.new_files import new_file
from semievol_ray.sources import Row, cell_text, find_files, read_rows

_LOOKED_AT = 500
_QUESTIONS = ("question", "text", "message", "prompt", "query", "input", "sentence", "instruction")
_ANSWERS = ("answer", "label", "category", "target", "team", "output", "gt", "class", "response")
_OPTIONS = ("options", "choices", "candidates")
_MOST_LABELS = 200
# On average; of fewer too little is left to learn from once a fifth is held out.
_LABELS_A_CLASS = 5


def write_config(labeled: str, unlabeled: str, test: str | None, model: str, output: str) -> Path:
    """Write a commented YAML config for some files; returns its path.

    Raises UserError where a file is missing or empty, a column cannot be guessed, or the config
    is already there.
    """
    path = Path(output)
    if path.exists():
        raise UserError(f"{output}: already there; give another --output")
    rows = _rows(labeled, "--labeled")
    _rows(unlabeled, "--unlabeled")
    columns = _guess_columns(rows, labeled)
    kind, why = _guess_task(rows, columns)
    lines = [
        "# A first config. Every other setting has a default; `preset: upstream` is the",
        "# authors' released code, `preset: paper` the paper.",
        f"run_dir: runs/{path.stem}",
        "preset: paper",
        f"model: {{name: {json.dumps(model)}}}   # engine: vllm where installed, else transformers",
        f"task: {{kind: {kind}}}   # {why}",
        "data:",
        f"  labeled: {json.dumps(labeled)}",
        f"  unlabeled: {json.dumps(unlabeled)}",
        *([f"  test: {json.dumps(test)}"] if test else ["  # test: data/test.csv"]),
        f"  columns: {{{', '.join(f'{k}: {json.dumps(v)}' for k, v in columns.items())}}}",
    ]
    lines += [
        "# Chosen by labels that are held out; the paper has 1e-4 and 2 epochs, for models of 8B:",
        "training: {learning_rate: auto, epochs: auto}",
    ]
    if _is_for_classifiers(kind, rows, columns):
        lines += [
            "# Voters of three kinds, weighed by a fifth of the labels, which a second warm model",
            "# has not seen: of what was measured the best for closed answers. Without these three",
            "# lines it is the paper's policy.",
            "collaborators: [{model: warm}, {model: probe}, {model: propagation}]",
            "selection: {policy: stacked, percentile: 75}",
            "# Of many classes, which the other voters know better than the model, teach all rows:",
            "# selection: {policy: stacked, percentile: 100}",
            "# evolve: {soft_targets: true}   # each as doubtful as the voters were",
            "justify: {when: never}   # stacked reads the options' probabilities instead",
            "# Two of them are mostly better over sentence embeddings (an extra, and a model):",
            "# retrieval: {embedder: sentence-transformers}",
        ]
    elif kind in ("label", "multiple_choice"):
        lines += [
            "# For closed answers the policy `balanced` was better than `paper` in our benchmarks:",
            "# selection: {policy: balanced}",
            "# evolve: {soft_targets: true}",
            "# justify: {when: never}   # balanced reads the options' probabilities instead",
        ]
    if test and kind in ("label", "multiple_choice"):
        said = "The most probable option counts, written or not"
        references = ""
        if kind == "label":
            said += "; what you would try first is compared, too"
            references = ", references: [{embedder: tfidf}]"
        lines += [f"# {said}:", f"evaluation: {{closed_answers: score{references}}}"]
    with new_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


def _is_for_classifiers(
    kind: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> bool:
    """Whether all examples share their answers, with some labels of each, as classifiers need."""
    if kind == "multiple_choice":
        options = {json.dumps(row.get(columns["options"]), default=str) for row in rows}
        return len(options - {"null", '""'}) == 1
    answers = [answer for row in rows if (answer := _said(row, columns["answer"]))]
    return kind == "label" and len(answers) >= _LABELS_A_CLASS * len(set(answers))


def _rows(location: str, setting: str) -> list[Mapping[str, Any]]:
    files = find_files(location, setting)
    found = (r.values for r in itertools.chain(*map(read_rows, files)) if isinstance(r, Row))
    rows = list(itertools.islice(found, _LOOKED_AT))
    if not rows:
        raise UserError(f"{setting}: {location}: no readable row")
    return rows


def _guess_columns(rows: Sequence[Mapping[str, Any]], where: str) -> dict[str, str]:
    # Objects of a JSONL file may each leave out some of the names.
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, str] = {}
    if "id" in names and len({_said(row, "id") for row in rows} - {""}) == len(rows):
        columns["id"] = "id"
    for key, known in (("question", _QUESTIONS), ("options", _OPTIONS), ("answer", _ANSWERS)):
        found = next((n for k in known for n in names if n.lower() == k), None)
        if found is not None:
            columns[key] = found
        elif key != "options":
            raise UserError(
                f"{where}: no column looks like the {key}; it has {', '.join(names)}; "
                f"rename one to {known[0]!r}, or write the config by hand"
            )
    return columns


def _guess_task(rows: Sequence[Mapping[str, Any]], columns: dict[str, str]) -> tuple[str, str]:
    if "options" in columns:
        return "multiple_choice", f"the column {columns['options']!r} holds options"
    said = (_said(row, columns["answer"]) for row in rows)
    answers = [answer for answer in said if answer]
    distinct = set(answers)
    if answers and all(_is_number(answer) for answer in answers):
        return "numeric", "every answer is a number"
    if len(distinct) <= min(_MOST_LABELS, len(answers) // 2):
        return "label", f"{len(distinct)} different answers in {len(answers)} rows"
    return "text", f"{len(distinct)} different answers in {len(answers)} rows"


def _said(row: Mapping[str, Any], column: str) -> str:
    """A cell's text; nothing where there is none: a guess is no place to refuse a row."""
    try:
        return cell_text(row.get(column), column) or ""
    except ValueError:
        return ""


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%"))
    except ValueError:
        return False
    return True
