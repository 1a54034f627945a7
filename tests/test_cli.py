"""The command: every mistake is one line and exit code 2, whatever the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from semievol_ray import load_config
from semievol_ray.cli import main
from semievol_ray.demo import write_demo_data
from semievol_ray.results import Run


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


def test_every_setting_says_where_it_comes_from(config, capsys) -> None:
    text = config.read_text() + "preset: upstream\nselection: {policy: balanced}\n"
    config.write_text(text)
    assert main(["config", str(config), "--set", "training.epochs=7"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    found = {line[0].strip(): (line[-2].strip(), line[-1].removeprefix("# ")) for line in lines}
    assert found["training.epochs"] == ("7.0", "--set")
    assert found["selection.policy"] == ('"balanced"', str(config))
    assert found["selection.percentile"] == ("30.0", "preset upstream")
    assert found["selection.align_prior"] == ('"auto"', "default")
    assert found["data.columns.question"] == ('"message"', str(config))
    assert found["collaborators"][1] == "preset upstream"
    assert found["task.instruction"][1] == "kind label"
    assert main(["config", str(config), "--set", "trainin.epochs=7"]) == 2
    assert "did you mean 'training'" in capsys.readouterr().err


def test_editors_get_a_schema_and_people_a_version(capsys) -> None:
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    policy = schema["$defs"]["SelectionConfig"]["properties"]["policy"]
    assert {"paper", "stacked", "risk"} <= set(policy["enum"])
    assert main(["config"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("semievol 0.")


@pytest.mark.parametrize(
    "arguments",
    [["run", "none.yaml"], ["status", "none"], ["select", "none"], ["evaluate", "none"]],
)
def test_what_is_not_there_is_named(arguments, capsys) -> None:
    assert main(arguments) == 2
    assert "none" in capsys.readouterr().err


def semievol(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "semievol_ray", *arguments],
        capture_output=True, text=True, timeout=300,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
    )  # fmt: skip


def test_a_cluster_that_does_not_answer_is_one_line(config) -> None:
    found = semievol("run", str(config), "--set", "ray.address=127.0.0.1:9")
    assert found.returncode == 2, found.stderr
    assert "ray.address: 127.0.0.1:9: no Ray cluster answers" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


def test_a_full_disk_is_one_line_and_leaves_no_half_file(config, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        found = semievol("run", str(config), "--set", f"run_dir={disk}/run")
        assert found.returncode == 1, found.stderr
        assert "no space left" in found.stderr.splitlines()[-1]
        assert "Traceback" not in found.stderr
        shards = [p for p in disk.rglob("*.parquet") if p.is_file()]
        assert all(pq.read_metadata(p).num_rows for p in shards)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ingest_shows_three_prompts_with_their_answers(config, tmp_path, capsys) -> None:
    assert main(["run", str(config), "--until", "ingest"]) == 0
    said = capsys.readouterr().err
    rows = Run(str(tmp_path / "run")).examples("labeled").to_pylist()
    for number, row in enumerate(rows[:3], start=1):
        assert f"ingest: labelled prompt {number}, before the model's chat template" in said
        shown = ["", row["question"], "Label:"]
        lines = "".join(f"ingest: | {line}\n" for line in shown)
        assert f"{lines}ingest: its answer: {row['answer']}\n" in said
    assert "labelled prompt 4" not in said


def test_ingest_alone_and_its_status(config, tmp_path, capsys) -> None:
    assert main(["run", str(config), "--until", "ingest"]) == 0
    said = capsys.readouterr()
    assert main(["status", str(tmp_path / "run")]) == 0
    rows = sum(Run(str(tmp_path / "run")).manifests[0].statistics["rows"].values())
    # Of what was put aside, nothing is a row of the run; what was read is said as it is.
    assert f"ingest             done     {rows} rows" in capsys.readouterr().out
    assert "labeled: " in said.err and "unlabeled: " in said.err


def test_init_writes_a_config_that_loads(tmp_path, capsys) -> None:
    write_demo_data(tmp_path / "data", 0)
    output = tmp_path / "mine.yaml"
    files = [f"--{n}={tmp_path}/data/{n}.csv" for n in ("labeled", "unlabeled", "test")]
    assert main(["init", *files, "--output", str(output)]) == 0
    config = load_config(output)
    assert config.task.kind == "label"
    assert (config.data.columns.question, config.data.columns.answer) == ("message", "team")
    assert (config.selection.policy, config.evaluation.closed_answers) == ("stacked", "score")
    assert [c.model for c in config.collaborators] == ["warm", "probe", "propagation"]
    assert main(["init", *files, "--output", str(output)]) == 2
    assert "already there" in capsys.readouterr().err


def test_init_writes_nowhere_but_where_it_can(tmp_path, capsys) -> None:
    rows = "question,answer\n" + "".join(f"q{i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "l.csv").write_text(rows)
    command = ["init", "--labeled", str(tmp_path / "l.csv"), "--unlabeled", str(tmp_path / "l.csv")]
    assert main([*command, "--output", str(tmp_path / "no" / "such.yaml")]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and len(error.strip().splitlines()) == 1


def test_init_knows_published_files(published, tmp_path) -> None:
    few = published.name == "published"  # there a class of Banking77 has a row or two
    for name, kind, question, policy in (
        ("fpb", "multiple_choice", "question", "stacked"),
        ("arc", "multiple_choice", "question", "paper"),
        ("banking77", "label", "text", "paper" if few else "stacked"),
    ):
        file = "train.csv" if name == "banking77" else "labeled.csv"
        output = tmp_path / f"{name}.yaml"
        where = str(published / name / file)
        arguments = ["--labeled", where, "--unlabeled", where, "--output", str(output)]
        assert main(["init", *arguments]) == 0
        config = load_config(output)
        assert (config.task.kind, config.data.columns.question) == (kind, question)
        assert config.selection.policy == policy


def test_init_lets_classifiers_vote_where_all_examples_have_the_same_options(tmp_path) -> None:
    alike = [{"question": f"q{i}", "options": ["yes", "no"], "answer": "A"} for i in range(12)]
    other = [row | {"options": [f"x{i}", f"y{i}"]} for i, row in enumerate(alike)]
    for name, rows, policy in (("alike", alike, "stacked"), ("other", other, "paper")):
        file, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.yaml"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = ["--labeled", str(file), "--unlabeled", str(file), "--output", str(output)]
        assert main(["init", *arguments]) == 0
        config = load_config(output)
        assert config.selection.policy == policy
        assert config.selection.percentile == (75 if policy == "stacked" else 50)


def test_init_reads_objects_that_leave_fields_out(tmp_path) -> None:
    path, output = tmp_path / "l.jsonl", tmp_path / "c.yaml"
    path.write_text('{"pad": 1}\n{"id": 1, "text": "x"}\n' + '{"text": "y", "label": "a"}\n' * 8)
    arguments = ["--labeled", str(path), "--unlabeled", str(path), "--output", str(output)]
    assert main(["init", *arguments]) == 0
    config = load_config(output)
    assert config.data.columns.id is None
    assert (config.data.columns.question, config.task.kind) == ("text", "label")


def test_merge_writes_the_model_and_names_what_is_wrong(tiny_model, tmp_path, capsys) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter, output = str(tmp_path / "adapter"), str(tmp_path / "merged")
    get_peft_model(base, LoraConfig(target_modules="all-linear")).save_pretrained(adapter)
    assert main(["merge", adapter, "--output", output]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    capsys.readouterr()
    elsewhere = str(tmp_path / "elsewhere")
    for arguments, words in (
        ([adapter, "--output", output], "already there"),
        ([str(tmp_path / "none"), "--output", elsewhere], "no adapter_config.json"),
        ([adapter, "--into", "./no/model", "--output", elsewhere], "no such folder"),
    ):
        assert main(["merge", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("semievol: ") and words in error and error.count("\n") == 1


def test_the_doctor_finds_this_environment_healthy(capsys) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert "rust core" in report and "MISSING" not in report


def test_a_strangers_run_directory_cannot_reach_out_of_itself(config, tmp_path, capsys) -> None:
    assert main(["run", str(config), "--until", "ingest"]) == 0
    victim = tmp_path / "victim" / "attempt-1" / "labeled" / "shard-00000.parquet"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"mine")
    manifest = tmp_path / "run" / "manifests" / "ingest.json"
    facts = json.loads(manifest.read_text())
    facts["stage"] = "../victim"
    facts["outputs"] = {n.replace("ingest/", "../victim/"): r for n, r in facts["outputs"].items()}
    assert f"../victim/{'/'.join(victim.parts[-3:])}" in facts["outputs"]
    manifest.write_text(json.dumps(facts))
    capsys.readouterr()
    # Done anew or refused in one line, as the name is used; and nothing else either way.
    assert main(["run", str(config), "--until", "ingest", "--redo", "ingest"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert main(["run", str(config), "--until", "ingest", "--set", "data.shard_rows=7"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert victim.read_bytes() == b"mine"


def test_a_shell_completes_commands_and_options() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "semievol_ray", "completion", "bash"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for words, expected in (
        (["semievol", "rep"], "report"),
        (["semievol", "run", "--un"], "--until"),
    ):
        asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_semievol"
        told = subprocess.run(
            ["bash", "-c", f"{script}\n{asked}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert expected in told.stdout.split()
