"""A secret is planted wherever a config can hold one; it is in nothing that is written or said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from semievol_ray import UserError, load_config
from semievol_ray.config import Config, RayConfig
from semievol_ray.credentials import redact, resolve
from semievol_ray.demo import write_demo_data
from semievol_ray.ray_session import _runtime_env
from semievol_ray.results import Run

SECRET = "hush4711hush4711hush"
TOKEN = f"hf_{SECRET}"


@pytest.fixture
def values(tmp_path, tiny_model) -> dict:
    write_demo_data(tmp_path / "data", 0)
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(tiny_model), "engine": "transformers"},
        "task": {"kind": "label"},
        "data": {
            "labeled": str(tmp_path / "data" / "labeled.csv"),
            "unlabeled": str(tmp_path / "data" / "unlabeled.csv"),
            "columns": {"question": "message", "answer": "team"},
        },
    }


def planted(values: dict, path: str, value: object) -> dict:
    """The config with a value put at a dotted path."""
    copy = json.loads(json.dumps(values))
    *folders, last = path.split(".")
    inner = copy
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[last] = value
    return copy


REFUSED = [
    ("ray.runtime_env.env_vars", {"HF_TOKEN": SECRET}),
    ("ray.runtime_env.env_vars", {"HF_TOKEN": f"${{X}}{SECRET}"}),
    ("ray.runtime_env.env_vars", {"ANYTHING": SECRET}),
    ("ray.runtime_env.env_vars", {"ANYTHING": [SECRET]}),
    ("ray.runtime_env.env_vars", [f"HF_TOKEN={SECRET}"]),
    ("ray.runtime_env.env_vars", [TOKEN]),
    ("ray.runtime_env.env_vars", f"HF_TOKEN={SECRET}"),
    ("ray.runtime_env.pip", {"packages": ["x"], "pip_install_options": [
        f"--index-url=https://me:{SECRET}@host/simple"]}),
    ("ray.runtime_env.working_dir", f"https://{SECRET}@host/code.zip"),
    ("ray.address", f"ray://me:{SECRET}@host:10001"),
    ("run_dir", f"s3://key:{SECRET}@bucket/run"),
    ("run_dir", f"s3://bucket/run?access_key=k&secret_key={SECRET}"),
    ("data.labeled", f"s3://key:{SECRET}@bucket/x.csv"),
    ("data.unlabeled", ["x.csv", f"s3://key:{SECRET}@bucket/x.csv"]),
    ("data.test", f"gs://{SECRET}@bucket/x.csv"),
    ("data.test", f"https://host/x.csv?sv=1&sig={SECRET}"),
    ("model.name", f"https://me:{SECRET}@host/model"),
    ("model.base_url", f"https://me:{SECRET}@host/v1"),
    ("model.base_url", f"https://host/v1?api-key={SECRET}"),
    ("model.api_key_env", f"sk-{SECRET}"),
    ("model.api_key_env", TOKEN),
    ("model.api_key", SECRET),
    ("model.engine_options.api_key", SECRET),
    ("model.engine_options.hf_token", SECRET),
    ("model.engine_options.token", SECRET),
    ("model.engine_options.anything", TOKEN),
    ("model.engine_options.extra_headers", {"Authorization": f"Bearer {SECRET}"}),
    ("model.engine_options.extra_headers", {"X-Api-Key": SECRET}),
    ("model.engine_options.extra_headers", {"Cookie": SECRET}),
    ("models.judge", {"name": "m", "engine_options": {"client": [{"password": SECRET}]}}),
    ("models.judge", {"name": "m", "base_url": f"http://{SECRET}@host"}),
    ("retrieval.base_url", f"https://me:{SECRET}@host/v1"),
    ("retrieval.api_key_env", f"key is {SECRET}"),
    ("retrieval.api_key", SECRET),
    ("training.lora.options", {"auth_token": SECRET}),
    ("evolve.training", {"password": SECRET}),
    ("token", SECRET),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_a_secret_written_out_is_refused_and_not_repeated(
    values, tmp_path, capfd, path, value
) -> None:
    from semievol_ray.cli import main

    config = tmp_path / "semievol.yaml"
    config.write_text(yaml.safe_dump(planted(values, path, value)))
    assert main(["run", str(config), "--until", "ingest"]) == 2
    said = capfd.readouterr()
    assert path.split(".")[0] in said.err and said.err.count("\n") == 1
    assert SECRET not in said.out + said.err
    assert not (tmp_path / "run").exists()
    written = f"{path}={json.dumps(value)}"
    config.write_text(yaml.safe_dump(values))
    assert main(["run", str(config), "--until", "ingest", "--set", written]) == 2
    assert SECRET not in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{name: x, api_key: '{SECRET}",
        f"api_key: [{SECRET}\nb: c",
        f"password: *{SECRET}\n",
        f"password: !{SECRET} x\n",
        f"- {SECRET}",
    ],
)
def test_broken_yaml_is_not_quoted(tmp_path, text) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert SECRET not in str(caught.value) and "c.yaml" in str(caught.value)


def test_a_broken_override_is_not_quoted(values) -> None:
    with pytest.raises(UserError, match="--set model.api_key: the value is not valid YAML") as e:
        load_config(values, (f"model.api_key=[{SECRET}",))
    assert SECRET not in str(e.value)


def test_a_validation_error_of_pydantic_shows_no_input(values) -> None:
    with pytest.raises(ValueError) as caught:
        Config.model_validate(planted(values, "seed", SECRET))
    assert SECRET not in str(caught.value)


ALLOWED = [
    ("ray.runtime_env.env_vars", ["HF_TOKEN", "NCCL_DEBUG"]),
    ("ray.runtime_env.env_vars", {"OTHER_TOKEN": "${HF_TOKEN}"}),
    ("model.engine_options.token", "${HF_TOKEN}"),
    ("models.judge", {"name": "m", "api_key_env": "HF_TOKEN", "base_url": "https://host/v1?x=y"}),
    ("model.engine_options.pad_token", "<pad>"),
    ("model.engine_options.tokenizer", "some/tokenizer"),
    ("data.test", "hf://ai/arc@3fae/test"),
    ("task.instruction", "Mail me@host, see https://me@host, or use the password: hush."),
]


@pytest.mark.parametrize(("path", "value"), ALLOWED)
def test_names_and_what_is_no_secret_are_taken(values, path, value) -> None:
    load_config(planted(values, path, value))


def test_nothing_that_a_run_wrote_holds_the_values(values, tmp_path, monkeypatch) -> None:
    for path, value in ALLOWED[:4]:
        values = planted(values, path, value)
    names = {"A": "${HF_TOKEN}", "HF_TOKEN": "${HF_TOKEN}"}
    values = planted(values, "ray.runtime_env.env_vars", names)
    config = tmp_path / "semievol.yaml"
    config.write_text(yaml.safe_dump(values))
    found = subprocess.run(
        [sys.executable, "-m", "semievol_ray", "run", str(config), "--until", "ingest"],
        env=os.environ | {"HF_TOKEN": SECRET}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert SECRET not in found.stdout + found.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name == "config.json" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    kept = Run(str(tmp_path / "run")).config()
    assert kept.ray.runtime_env["env_vars"]["A"] == "${HF_TOKEN}"


def test_references_are_resolved_when_they_are_used(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    options = {"token": "${HF_TOKEN}", "headers": [{"x": "Bearer ${HF_TOKEN}"}], "n": 3}
    assert resolve(options, "o") == {
        "token": SECRET,
        "headers": [{"x": f"Bearer {SECRET}"}],
        "n": 3,
    }
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"o\.token: the environment variable HF_TOKEN is not set"):
        resolve(options, "o")


def test_other_programs_messages_are_redacted() -> None:
    secret = "quo'te\\d"
    assert redact(f"conflict: {{'A': {secret!r}}} {secret}", [secret, ""]) == (
        "conflict: {'A': \"***\"} ***"
    )


RAY_PROGRAM = """
import os, sys
from semievol_ray.config import RayConfig
from semievol_ray.ray_session import connect, disconnect
import ray
names = {"A": "${HF_TOKEN}", "HF_TOKEN": "${HF_TOKEN}"}
connect(RayConfig(num_cpus=1, runtime_env={"env_vars": names}))
seen = ray.get(ray.remote(lambda: [os.environ["A"], os.environ["HF_TOKEN"]]).remote())
assert seen == [os.environ["HF_TOKEN"]] * 2
print(ray._private.worker._global_node.get_session_dir_path())
disconnect()
"""


@pytest.mark.e2e
def test_workers_of_a_cluster_started_here_have_them_and_its_logs_do_not() -> None:
    found = subprocess.run(
        [sys.executable, "-c", RAY_PROGRAM],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"HF_TOKEN": SECRET},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    session = Path(found.stdout.split()[-1])
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs and [path for path in logs if SECRET.encode() in path.read_bytes()] == []


def test_what_a_job_says_is_not_said_again(monkeypatch) -> None:
    """Ray refuses what both a job and its driver say, and prints the values."""
    job = {"runtime_env": {"env_vars": {"A": SECRET, "PATH": "/bin"}, "pip": ["x"]}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    monkeypatch.setenv("B", SECRET)
    names = {"A": "${B}", "B": "${B}", "C": "${B}"}
    told, secrets = _runtime_env(RayConfig(runtime_env={"env_vars": names}), attached=True)
    # On the cluster each node fills in its own; nothing is sent.
    assert told == {"env_vars": {"TOKENIZERS_PARALLELISM": "false", "C": "${B}"}}
    assert secrets == []
    with pytest.raises(UserError, match="the job that this runs in says pip too; say it once"):
        _runtime_env(RayConfig(runtime_env={"pip": ["y"]}), attached=True)


def test_a_list_of_names_is_a_mapping_to_themselves() -> None:
    config = RayConfig(runtime_env={"env_vars": ["A"], "pip": ["x"]})
    assert config.runtime_env == {"env_vars": {"A": "${A}"}, "pip": ["x"]}
