"""Malformed inputs by the hundred: each is one line that names what is wrong, and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from semievol_ray import UserError
from semievol_ray.cli import main
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.validation import merge
from tests.report.making import make_run

LEAST: dict[str, Any] = {
    "run_dir": "r",
    "model": {"name": "m"},
    "task": {"kind": "label"},
    "data": {"labeled": "l", "unlabeled": "u"},
}
# What no setting takes: of an object's kind, of a list's, of a number's that is none.
NEVER: list[Any] = [{"no": {"such": 1}}, [[None]], float("nan")]


def settings(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting that is no section."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings(kind, (*above, name))
        else:
            yield (*above, name)


# These are whatever their user says: they are passed on, or named by their user.
FREE = {
    "engine_options", "chat_template_kwargs", "optimizer_options", "options", "runtime_env",
    "training", "models",
}  # fmt: skip
CASES = [
    pytest.param(path, value, id=f"{'.'.join(path)}-{number}")
    for path in settings(Config)
    if path[-1] not in FREE
    for number, value in enumerate(NEVER)
]


def test_there_are_hundreds() -> None:
    assert len(CASES) > 350


@pytest.mark.parametrize(("path", "value"), CASES)
def test_a_setting_of_another_kind_is_one_line_that_names_it(path: tuple[str, ...], value) -> None:
    nested: Any = value
    for name in reversed(path):
        nested = {name: nested}
    with pytest.raises(UserError) as caught:
        load_config(merge(LEAST, nested) if isinstance(nested, dict) else nested)
    said = str(caught.value)
    assert "\n" not in said and path[0] in said and path[-1] in said, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return Path(make_run(tmp_path_factory.mktemp("malformed")).run.uri)


JSON = ["", "{", "[]", "null", "3", '"text"', "{}", '{"stage": 3}', "\x00\x01", "[" * 3000,
        '{"stage": "ingest", "state": "odd"}']  # fmt: skip
FILES = ["config.json", "manifests/ingest.json", "manifests/round-1.select.json",
         "semievol-run.json"]  # fmt: skip
COMMANDS = (["status"], ["show"], ["report"], ["select"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", JSON, ids=range(len(JSON)))
def test_a_damaged_file_of_a_run_is_one_line(
    finished: Path, tmp_path: Path, capsys, name: str, content: str
) -> None:
    for number, command in enumerate(COMMANDS):
        run = tmp_path / f"run-{number}"
        shutil.copytree(finished, run)
        (run / name).write_text(content)
        code = main([command[0], str(run)])
        said = capsys.readouterr().err.strip()
        assert code in (0, 1, 2), said
        assert len(said.splitlines()) <= (1 if code else 0) + said.count("select: "), said


TABLES = ["round-1/generate", "round-1/select", "ingest", "round-1/evaluate"]
TORN = [b"", b"PAR1", b"PAR1" + b"\0" * 40 + b"PAR1", b"not parquet at all"]


@pytest.mark.parametrize("stage", TABLES)
@pytest.mark.parametrize("content", TORN, ids=range(len(TORN)))
def test_a_damaged_table_of_a_run_is_one_line(
    finished: Path, tmp_path: Path, capsys, stage: str, content: bytes
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in (run / stage).rglob("*.parquet"):
        path.write_bytes(content)
    for command in (["show"], ["report"], ["export", "--output", str(tmp_path / "out")]):
        code = main([command[0], str(run), *command[1:]])
        said = capsys.readouterr().err.strip()
        assert code in (0, 1, 2) and len(said.splitlines()) <= 1, said


ARGUMENTS = [
    ["run"], ["run", "a", "b"], ["nothing"], ["select", "r", "--round", "x"], ["export", "r"],
    ["show", "r", "--limit", "many"], ["merge", "a"], ["submit", "c"], ["push", "r"],
    ["plan", "c", "--gpus", "no"], ["compare", "c", "--seeds", "0"], ["completion", "csh2"],
    ["render", "c", "--kind", "pod"], ["report"], ["import", "r"], ["export", "r", "--format", "x"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_a_command_that_is_none_is_told_by_its_usage(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: semievol" in capsys.readouterr().err


PLACES = ["no/such/run", "/dev/null", "s3://", "ftp://host/x", "http://host/x", "\x00", "x" * 5000]


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
@pytest.mark.parametrize("command", ["status", "show", "report", "select", "labels", "evaluate"])
def test_a_place_that_holds_no_run_is_one_line(command: str, place: str, capsys) -> None:
    code = main([command, place])
    said = capsys.readouterr().err.strip()
    assert code in (1, 2) and len(said.splitlines()) == 1, said


REVIEWED = [None, [], {}, 3, "x", [None], [[]], [{}], [{"data": 3}], [{"annotations": {}}],
            [{"fields": {"question": "q"}}], [{"question": "q", "answer": ""}],
            [{"question": 3, "answer": None}], [{"annotations": [{"result": 3}], "data": {}}],
            [{"fields": [], "responses": [3]}]]  # fmt: skip


@pytest.mark.parametrize("document", REVIEWED, ids=range(len(REVIEWED)))
def test_a_reviewed_file_of_another_form_is_one_line(
    finished: Path, tmp_path: Path, capsys, document: Any
) -> None:
    source, target = tmp_path / "reviewed.json", tmp_path / "labels.jsonl"
    source.write_text(json.dumps(document))
    assert main(["import", str(finished), str(source), "--output", str(target)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not target.exists()
