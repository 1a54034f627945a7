"""The command: every mistake is one line and exit code 2, whatever the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semievol_ray import load_config
from semievol_ray.cli import main
from semievol_ray.demo import write_demo_data


@pytest.fixture
def config(tmp_path, tiny_model) -> Path:
    write_demo_data(tmp_path / "data", 0)
    values = {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(tiny_model), "engine": "transformers"},
        "task": {"kind": "label"},
        "data": {
            "labeled": str(tmp_path / "data" / "labeled.csv"),
            "unlabeled": str(tmp_path / "data" / "unlabeled.csv"),
            "columns": {"question": "message", "answer": "team"},
        },
    }
    path = tmp_path / "semievol.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "selection.polcy=paper"], "did you mean 'policy'"),
        (["--set", "training.epochs=many"], "training.epochs: input should be a valid number"),
        (["--set", "data.labeled=none.csv"], "none.csv: no such file"),
        (["--set", "data.columns.question=txt"], "no column 'txt'; it has message, team"),
        (["--set", "model.name=./no/model"], "model ./no/model: no such folder"),
        (["--until", "slect"], "no stage 'slect'; this run has ingest, warmup"),
    ],
)
def test_a_mistake_in_a_run_is_one_line(config, capsys, arguments, message) -> None:
    assert main(["run", str(config), *arguments]) == 2
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert message in last and last.startswith("semievol: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [["run", "none.yaml"], ["status", "none"], ["select", "none"], ["evaluate", "none"]],
)
def test_what_is_not_there_is_named(arguments, capsys) -> None:
    assert main(arguments) == 2
    assert "none" in capsys.readouterr().err


def test_ingest_alone_and_its_status(config, tmp_path, capsys) -> None:
    assert main(["run", str(config), "--until", "ingest"]) == 0
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "ingest" in capsys.readouterr().out


def test_init_writes_a_config_that_loads(tmp_path, capsys) -> None:
    write_demo_data(tmp_path / "data", 0)
    output = tmp_path / "mine.yaml"
    files = [f"--{n}={tmp_path}/data/{n}.csv" for n in ("labeled", "unlabeled", "test")]
    assert main(["init", *files, "--output", str(output)]) == 0
    config = load_config(output)
    assert config.task.kind == "label"
    assert (config.data.columns.question, config.data.columns.answer) == ("message", "team")
    assert main(["init", *files, "--output", str(output)]) == 2
    assert "already there" in capsys.readouterr().err


def test_init_knows_real_files(real_data, tmp_path) -> None:
    for name, kind, question in (("fpb", "multiple_choice", "question"),
                                 ("banking77", "label", "text")):  # fmt: skip
        file = {"fpb": "labeled.csv", "banking77": "train.csv"}[name]
        output = tmp_path / f"{name}.yaml"
        where = str(real_data / name / file)
        arguments = ["--labeled", where, "--unlabeled", where, "--output", str(output)]
        assert main(["init", *arguments]) == 0
        config = load_config(output)
        assert (config.task.kind, config.data.columns.question) == (kind, question)


def test_the_doctor_finds_this_environment_healthy(capsys) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert "rust core" in report and "MISSING" not in report
