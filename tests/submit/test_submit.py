"""`semievol submit` against a real head node with token authentication."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from semievol_ray.demo import write_demo_data
from semievol_ray.ray_session import worker_path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORT, DASHBOARD = 6399, 8299
ADDRESS = f"http://127.0.0.1:{DASHBOARD}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("c0ffee" * 8)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": worker_path(),
    }
    environment.pop("RAY_ADDRESS", None)
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    started = subprocess.run(
        [*ray, "start", "--head", f"--port={PORT}", f"--dashboard-port={DASHBOARD}",
         "--dashboard-host=127.0.0.1", "--num-cpus=2", "--disable-usage-stats"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr + started.stdout
    yield environment
    subprocess.run([*ray, "stop", "--force"], env=environment, capture_output=True, timeout=60)


@pytest.fixture
def config(tmp_path, tiny_model) -> Path:
    write_demo_data(tmp_path / "data", 0)
    values = {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(tiny_model), "engine": "transformers"},
        "task": {"kind": "label"},
        "data": {
            "labeled": str(tmp_path / "data" / "labeled.csv"),
            "unlabeled": "no/such/file.csv",
            "columns": {"question": "message", "answer": "team"},
        },
    }
    path = tmp_path / "semievol.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def submit(config: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "semievol_ray", "submit", str(config), "--address", ADDRESS, *more],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_jobs_logs_and_exit_code_come_back(config, environment) -> None:
    found = submit(config, environment)
    assert found.returncode == 2, found.stdout + found.stderr
    assert "data.unlabeled: no/such/file.csv: no such file" in found.stdout
    assert "c0ffee" not in found.stdout + found.stderr


def test_without_the_token_nothing_is_accepted(config, environment, tmp_path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("bad0" * 12)
    found = submit(config, environment | {"RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert found.returncode == 2, found.stdout + found.stderr
    assert "does not take the job" in found.stderr.splitlines()[-1]


def test_a_cluster_that_is_not_there_is_one_line(config, environment) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "semievol_ray", "submit", str(config), "--address",
         "http://127.0.0.1:9"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 2 and "Traceback" not in found.stderr
