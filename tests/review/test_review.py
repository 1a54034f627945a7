"""Rows shown, handed on and taken back, of a run whose votes are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semievol_ray import UserError, pipeline
from semievol_ray.cli import main
from semievol_ray.config import Columns
from semievol_ray.config_file import load_config
from semievol_ray.results import Run
from semievol_ray.review import FORMATS, export_rows, import_reviewed, rows_of
from semievol_ray.review.rows import COLUMNS
from semievol_ray.schema import RESPONSE, SELECTION
from semievol_ray.stages.context import Context
from semievol_ray.store import layout
from tests.stages.ingesting import ingested
from tests.stages.test_evolve import selected

CHOSEN = {"u0": ("red", True), "u1": ("blue", False), "u2": ("blue", True), "u3": ("red", False)}


def write(context: Context, stage: str, table_of: Any) -> None:
    """Leave a stage done, a table for each shard."""
    name = layout.round_stage(1, stage)
    folder = context.ledger.begin(name, {}, {}).folder
    outputs = {}
    for source in context.shards("unlabeled"):
        table = table_of(context.run.read_table(source)["example_id"].to_pylist())
        target = layout.same_shard(source, folder)
        context.run.write_table(target, table)
        outputs[target] = len(table)
    context.ledger.finish(name, outputs, (), {}, 0)


def nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    labeled = "id,question,answer\nl,a label,red\nm,another,blue\n"
    rows = "u0,what <b>burns</b>?,red\nu1,the sea?,red\nu2,the sky?,blue\nu3,a rose?,\n"
    values = {"model": {"name": "sim", "engine": "simulated"}, "data": {"shard_rows": 2}}
    context = ingested(tmp_path, values, labeled, "id,question,answer\n" + rows)

    def responses(ids: list[str]) -> pa.Table:
        blank = {field.name: None for field in RESPONSE}
        said = [("warm", "red"), ("warm, 1 shot", "blue"), ("warm, 2 shots", None)]
        rows = [blank | {"example_id": i, "collaborator": who, "answer": what, "text": f" {what}"}
                for i in ids for who, what in said]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=nullable(RESPONSE))

    def selection(ids: list[str]) -> pa.Table:
        rows = [selected(i, CHOSEN[i][0], [0.5, 0.5], CHOSEN[i][1]) for i in ids]
        for row in rows:
            row["agreement"] = 0.25 if row["example_id"] == "u2" else 1.0
        return pa.Table.from_pylist(rows, schema=nullable(SELECTION))

    write(context, "generate", responses)
    write(context, "select", selection)
    return Run(context.run.uri)


CONDITIONS = {
    "selected": ["u0", "u2"],
    "selected and agreement < 0.5": ["u2"],
    "not selected": ["u1", "u3"],
    "selected and pseudo_answer == true_answer": ["u0", "u2"],
    "pseudo_answer != true_answer": ["u1"],
    "true_answer is None": ["u3"],
    "true_answer is not None and not selected": ["u1"],
    "'sea' in question or 'rose' in question": ["u1", "u3"],
    "pseudo_answer in ('blue', 'green') and 0.2 < agreement <= 1": ["u1", "u2"],
    "example_id not in ['u0', 'u1', 'u2']": ["u3"],
    "agreement > -1 and reason == 'outside_quota'": ["u1", "u3"],
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_rows_that_meet_a_condition(run: Run, where: str) -> None:
    assert [row.values["example_id"] for row in rows_of(run, where)] == CONDITIONS[where]


REFUSED = {
    "agreement <": "invalid syntax",
    "agreemnt < 1": "did you mean 'agreement'?",
    "nothing > 1": "there are example_id",
    "1 < 2": "compares no column",
    "agreement": "'agreement'",
    "'text'": "compares nothing",
    "agreement == None": "write `is None`",
    "agreement is 1": "`is` asks for None",
    "agreement == (1, 2)": "a list is asked with `in`",
    "agreement in 3": "`in` takes",
    "question < 3": "question < 3",
    "selected and 3": "3 is neither true nor false",
    "__import__('os').system('true')": "is no comparison",
    "question.__class__ == 1": "is no comparison",
    "(lambda: selected)()": "is no comparison",
    "[q for q in question]": "is no comparison",
    "(" * 300 + "selected" + ")" * 300: "--where",
    "not " * 3000 + "selected": "--where",
}


@pytest.mark.parametrize("where", REFUSED, ids=lambda text: text[:30])
def test_what_is_no_condition_is_one_line(run: Run, where: str) -> None:
    with pytest.raises(UserError) as caught:
        list(rows_of(run, where))
    assert REFUSED[where] in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_is_shown_with_its_votes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", run.uri, "--where", "selected", "--limit", "1"]) == 0
    assert capsys.readouterr().out == (
        "u0: selected, agreement 1.00\n"
        "  what <b>burns</b>?\n"
        "  warm: red, warm, 1 shot: blue, warm, 2 shots: -\n"
        "  pseudo-answer: red (true: red)\n\n"
    )
    assert main(["show", run.uri, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["example_id"] for line in lines] == list(CHOSEN)
    assert lines[0]["votes"][1] == {
        "collaborator": "warm, 1 shot", "answer": "blue", "text": " blue"
    }  # fmt: skip


def test_a_round_that_selected_nothing_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", run.uri, "--round", "2"]) == 2
    assert "nothing was selected in round 2 yet" in capsys.readouterr().err


def test_every_format_goes_out_and_comes_back_as_labels(run: Run, tmp_path: Path) -> None:
    columns = run.config().data.columns
    for kind in FORMATS:
        path = tmp_path / f"{kind}.json"
        assert export_rows(rows_of(run, "not selected"), path, kind) == 2
        with pytest.raises(UserError, match="there is a file already"):
            export_rows(rows_of(run), path, kind)
        reviewed = tmp_path / f"{kind}-reviewed.json"
        reviewed.write_text(answered(path, kind))
        target = tmp_path / f"{kind}-labels.jsonl"
        assert import_reviewed(reviewed, target, columns) == 1
        assert [json.loads(line) for line in target.read_text().splitlines()] == [
            {"question": "the sea?", "answer": "blue", "id": "u1"}
        ]
    # They are labels of a next run.
    values = run.config().model_dump(mode="json")
    values["run_dir"] = str(tmp_path / "next")
    values["data"]["labeled"] = [values["data"]["labeled"], str(target)]
    labeled = Run(pipeline.run(load_config(values), until="ingest").uri).examples("labeled")
    assert labeled["example_id"].to_pylist() == ["l", "m", "u1"]


def answered(path: Path, kind: str) -> str:
    """What a tool gives back where a reviewer called the first row blue, and left the second."""
    text = path.read_text()
    if kind == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        rows[0]["answer"] = "blue"
        return "\n".join(map(json.dumps, rows))
    tasks = json.loads(text)
    if kind == "argilla":
        assert tasks[0]["suggestions"][0]["value"] == "blue"
        tasks[0]["responses"] = {"answer": [{"value": "blue", "status": "submitted"}]}
        tasks[1]["responses"] = {"answer": [{"value": "red", "status": "discarded"}]}
        return json.dumps(tasks)
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["blue"]}
    skipped = {"was_cancelled": True, "result": [{"value": {"choices": ["red"]}}]}
    chosen = {"result": [{"value": {"choices": ["blue"]}}]}
    tasks[0]["annotations"], tasks[1]["annotations"] = [skipped, chosen], [skipped]
    return json.dumps(tasks)


def test_labels_have_every_column_of_the_config_or_a_run_would_miss_it(
    run: Run, tmp_path: Path
) -> None:
    names = {"subject": "topic", "context": "passage", "options": "choices", "weight": "trust"}
    columns = Columns(question="text", answer="label", id="key", **names)
    source = tmp_path / "reviewed.json"
    record = {
        "id": "u1", "fields": {"question": "q", "options": "a\nb\nc"},
        "metadata": {"options": ["a\nb", "c"], "subject": "sea"},
        "responses": {"answer": [{"value": "A"}]},
    }  # fmt: skip
    source.write_text(json.dumps([record]))
    import_reviewed(source, tmp_path / "labels.jsonl", columns)
    assert json.loads((tmp_path / "labels.jsonl").read_text()) == {
        "key": "u1", "text": "q", "label": "A", "choices": ["a\nb", "c"], "topic": "sea",
        "passage": None, "trust": None,
    }  # fmt: skip
    several = columns.model_copy(update={"options": ("A", "B", "C")})
    import_reviewed(source, tmp_path / "several.jsonl", several)
    row = json.loads((tmp_path / "several.jsonl").read_text())
    assert "choices" not in row and [row[name] for name in "ABC"] == ["a\nb", "c", None]


def test_an_export_that_fails_leaves_no_file_in_the_next_ones_way(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for where in ("agreement <", "question < 3"):
        with pytest.raises(UserError, match="--where"):
            export_rows(rows_of(run, where), path, "jsonl")
        assert not path.exists()
    assert export_rows(rows_of(run), path, "jsonl") == 4


def test_the_command_knows_every_format(run: Run, tmp_path: Path) -> None:
    for kind in FORMATS:
        output = str(tmp_path / f"{kind}.out")
        assert main(["export", run.uri, "--format", kind, "--output", output]) == 0
    assert main(["show", run.uri, "--limit", "-1"]) == 0


def test_whoever_reads_along_may_stop(run: Run) -> None:
    command = f"{sys.executable} -m semievol_ray show {run.uri} --json"
    program = f"{command} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "{" and not done.stderr


ATOMS = st.sampled_from(
    [*COLUMNS, "None", "True", "1", "-0.5", "10**20", str(10**20), "'a'", "''", "('a', 1)", "[]",
     "['a', None]", "(agreement, 1)", "[[1]]", "b'x'", "1j", "...", "f'{1}'"]
)  # fmt: skip
OPERATORS = st.sampled_from(["<", "<=", "==", "!=", "in", "not in", "is", "is not", "and", "or"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(["", "not "]), ATOMS, OPERATORS), min_size=1, max_size=4))
def test_any_condition_is_met_or_refused_in_one_line(
    run: Run, parts: list[tuple[str, str, str]]
) -> None:
    text = " ".join(f"{no}{atom} {operator}" for no, atom, operator in parts).rsplit(" ", 1)[0]
    try:
        list(rows_of(run, text))
    except UserError as error:
        assert "\n" not in str(error)


def test_nothing_selected_is_an_empty_list(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert export_rows(rows_of(run, "agreement > 2"), path, "argilla") == 0
    assert json.loads(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "neither a JSON list nor JSONL"),
        ("no json", "neither a JSON list nor JSONL"),
        ('{"question": "q"}', "nobody has answered any of it"),
        ('[{"annotations": [1], "data": {}}]', "row 1 has a form that is not known"),
        ('[{"fields": 3, "responses": {}}]', "row 1 has a form that is not known"),
        ("[3]", "nobody has answered any of it"),
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "cannot be read: not UTF-8"),
    ],
)
def test_a_file_that_no_tool_wrote_is_one_line(
    run: Run, tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    source = tmp_path / "reviewed.json"
    if text is not None:
        source.write_bytes(text.encode() if isinstance(text, str) else text)
    target = tmp_path / "labels.jsonl"
    with pytest.raises(UserError) as caught:
        import_reviewed(source, target, run.config().data.columns)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists()
