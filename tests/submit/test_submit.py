"""`semievol submit` against a real head node with token authentication."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from semievol_ray.demo import write_demo_data
from semievol_ray.ray_session import worker_path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORT, DASHBOARD, AGENT = 6399, 8299, 8298
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
    # Not below pytest's own folder: the paths of Ray's sockets must be short.
    folder = tempfile.mkdtemp(prefix="ray-")
    log = (tmp_path_factory.mktemp("head") / "out.txt").open("w+")
    # In the foreground: only so can this one head be ended, and no other Ray of the machine.
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
         f"--port={PORT}", f"--dashboard-port={DASHBOARD}", "--dashboard-host=127.0.0.1",
         # Another Ray of the machine may have the agent's usual port.
         f"--dashboard-agent-listen-port={AGENT}", "--num-cpus=2", "--disable-usage-stats",
         # Its address stays behind there: in the usual place it would be taken for a cluster that
         # lives, and whoever asks for "the" cluster would wait for it.
         f"--temp-dir={folder}"],
        env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    wait_for_dashboard(head, Path(log.name))
    yield environment
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_dashboard(head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", DASHBOARD), 1):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


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
    assert not Path("semievol.yaml").exists(), "the job wrote into the folder it was started in"


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
