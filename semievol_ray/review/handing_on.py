"""Rows to the formats of review tools, and what was reviewed there back as labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semievol_ray.config import Columns
from semievol_ray.errors import UserError
from semievol_ray.new_files import new_file
from semievol_ray.review.rows import Row

# Of what a run has, what a reviewer sees beside the question.
_FACTS = ("selected", "reason", "entropy", "agreement", "margin", "subject", "true_answer")
_QUESTION, _ANSWER = "question", "answer"


def export_rows(rows: Iterable[Row], path: Path, kind: str) -> int:
    """Write rows to a new file in one of FORMATS; how many. Raises UserError where it cannot be."""
    count = 0
    with new_file(path) as file:
        for count, text in enumerate(FORMATS[kind](rows), start=1):  # noqa: B007
            file.write(text.encode())
        if kind != "jsonl":
            file.write(b"\n]\n" if count else b"[]\n")
    return count


def _jsonl(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        values = row.values | {"votes": [asdict(vote) for vote in row.votes]}
        yield json.dumps(values, ensure_ascii=False) + "\n"


def _label_studio(rows: Iterable[Row]) -> Iterator[str]:
    """Tasks with a prediction each, for a labelling interface whose choices are called `answer`."""
    return _list(rows, _task)


def _argilla(rows: Iterable[Row]) -> Iterator[str]:
    """Records with a suggestion each, for a dataset with the field `question`."""
    return _list(rows, _record)


def _list(rows: Iterable[Row], made: Callable[[Row], dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield ("[\n" if not number else ",\n") + json.dumps(made(row), ensure_ascii=False)


def _task(row: Row) -> dict[str, Any]:
    v = row.values
    shown = {k: v[k] for k in ("question", "context", "options", "subject") if v[k] is not None}
    task: dict[str, Any] = {"data": {"example_id": v["example_id"], **shown, "facts": _facts(v)}}
    if v["pseudo_answer"] is not None:
        choice = {"from_name": _ANSWER, "to_name": _QUESTION, "type": "choices",
                  "value": {"choices": [v["pseudo_answer"]]}}  # fmt: skip
        task["predictions"] = [{"result": [choice], "score": v["agreement"]}]
    return task


def _record(row: Row) -> dict[str, Any]:
    v = row.values
    fields = {k: v[k] for k in ("question", "context") if v[k] is not None}
    metadata = _facts(v)
    if v["options"] is not None:
        fields["options"] = "\n".join(v["options"])
        metadata["options"] = v["options"]
    record: dict[str, Any] = {"id": v["example_id"], "fields": fields, "metadata": metadata}
    if v["pseudo_answer"] is not None:
        record["suggestions"] = [
            {"question_name": _ANSWER, "value": v["pseudo_answer"], "score": v["agreement"]}
        ]
    return record


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _FACTS if values[name] is not None}


FORMATS: dict[str, Callable[[Iterable[Row]], Iterator[str]]] = {
    "jsonl": _jsonl,
    "label-studio": _label_studio,
    "argilla": _argilla,
}


def import_reviewed(source: Path, target: Path, columns: Columns) -> int:
    """Write what was reviewed as labels that `data.labeled` takes, in a config's own columns.

    `source` is what Label Studio exports as JSON, a list of Argilla's records with their responses,
    or JSONL whose rows have the question and a reviewed `answer`. Rows that nobody answered are
    left out. Returns how many labels there are. Raises UserError for a file that is none of these.
    """
    found = []
    for number, task in enumerate(_tasks(source), start=1):
        try:
            row = _reviewed(task)
        except (AttributeError, IndexError, KeyError, TypeError):
            raise UserError(f"{source}: row {number} has a form that is not known") from None
        if row is not None:
            found.append(row)
    if not found:
        raise UserError(f"{source}: nobody has answered any of it")
    # All of them: a column that no row of a file has is taken for a misspelt one.
    names = columns.names
    with new_file(target) as file:
        for row in found:
            known = row | {"id": row.get("example_id")}
            known |= {f"options.{i}": text for i, text in enumerate(row.get("options") or ())}
            values = {name: known.get(key) for key, name in names.items()}
            file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
    return len(found)


def _tasks(source: Path) -> Sequence[Any]:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{source}: cannot be read: {why}") from None
    try:
        if text.lstrip().startswith("["):
            found: list[Any] = json.loads(text)
            return found
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: neither a JSON list nor JSONL: {error}") from None


def _reviewed(task: Any) -> dict[str, Any] | None:
    """The example of one reviewed task with its answer; null where it has none."""
    if not isinstance(task, dict):
        return None
    if "annotations" in task:
        shown, answer = task.get("data"), _label_studio_answer(task["annotations"])
    elif "fields" in task:
        known = {"example_id": task.get("id")} | (task.get("metadata") or {})
        shown, answer = task["fields"] | known, _argilla_answer(task)
    else:
        shown, answer = task, task.get(_ANSWER)
    if not isinstance(shown, dict) or not shown.get(_QUESTION) or answer in (None, ""):
        return None
    return shown | {_ANSWER: answer}


def _label_studio_answer(annotations: Any) -> Any:
    for annotation in annotations if isinstance(annotations, list) else []:
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result", []):
            value = result.get("value", {})
            said = value.get("choices") or value.get("text")
            if said:
                return said[0] if isinstance(said, list) else said
    return None


def _argilla_answer(record: dict[str, Any]) -> Any:
    responses = record.get("responses") or {}
    if isinstance(responses, dict):
        responses = responses.get(_ANSWER) or []
    for response in responses:
        if response.get("status", "submitted") == "submitted":
            value = response.get("value", response.get("values", {}).get(_ANSWER))
            return value.get("value") if isinstance(value, dict) else value
    return None
