"""`semievol submit` against a real head node with token authentication."""

from __future__ import annotations

import base64
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
from ray.job_submission import JobStatus, JobSubmissionClient

from semievol_ray.config_file import load_config
from semievol_ray.demo import write_demo_data
from semievol_ray.errors import SemiEvolError
from semievol_ray.ray_session import worker_path
from semievol_ray.submit.follow import follow
from semievol_ray.submit.job import submission_stem
from semievol_ray.validation import merge
from tests.submit.proxy import Proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORT, DASHBOARD, AGENT = 6399, 8299, 8298
ADDRESS = f"http://127.0.0.1:{DASHBOARD}"
TERMINAL = (JobStatus.SUCCEEDED, JobStatus.STOPPED, JobStatus.FAILED)
SECRET = "hush4711hush4711hush"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("c0ffee" * 8)
    # Not below pytest's own folder: the paths of Ray's sockets must be short.
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": worker_path(),
        # The cluster's own, as from a Kubernetes Secret.
        "HF_TOKEN": SECRET,
        "SEMIEVOL_TEST_RAY_FOLDER": folder,
    }
    environment.pop("RAY_ADDRESS", None)
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


def connected(environment: dict[str, str], address: str = ADDRESS) -> JobSubmissionClient:
    # Ray reads the token of a process once, as it is imported: too late for this one.
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def client(environment) -> JobSubmissionClient:
    return connected(environment)


@pytest.fixture
def proxy(environment) -> Iterator[Proxy]:
    proxy = Proxy(DASHBOARD, seconds=2)
    yield proxy
    proxy.close()


def submit(
    config: Path, environment: dict[str, str], *more: str, address: str = ADDRESS
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "semievol_ray", "submit", str(config), "--address", address, *more],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "semievol_ray", *words, "--address", ADDRESS],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def change(config: Path, **settings: object) -> None:
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(merge(values, settings)))


def wait_for(client: JobSubmissionClient, job: str, *states: JobStatus) -> JobStatus:
    deadline = time.monotonic() + 120
    while (state := client.get_job_status(job)) not in states:
        assert time.monotonic() < deadline, f"{job} is {state}"
        time.sleep(0.2)
    return state


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


# -- one run, one job ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_dir", "stem"),
    [("s3://bucket/runs/fpb", "semievol-fpb-"), ("s3://bucket/runs/fpb/", "semievol-fpb-"),
     ("/runs/My Größe!", "semievol-My-Gr-e-"), ("s3://b/r?region=x", "semievol-r-")],
)  # fmt: skip
def test_the_submissions_id_comes_from_the_run(run_dir, stem) -> None:
    assert submission_stem(run_dir).startswith(stem)
    assert submission_stem(run_dir) == submission_stem(run_dir.rstrip("/"))
    assert submission_stem(run_dir) != submission_stem(f"{run_dir.rstrip('/')}2")


def test_a_second_submission_follows_the_first(config, environment, client) -> None:
    change(config, data={"unlabeled": str(config.parent / "data" / "unlabeled.csv")})
    stem = submission_stem(load_config(config).run_dir)
    assert submit(config, environment, "--no-wait").returncode == 0
    wait_for(client, f"{stem}1", JobStatus.PENDING, JobStatus.RUNNING)
    second = submit(config, environment, "--no-wait")
    assert f"is run by {stem}1 already" in second.stderr and "another" not in second.stderr
    other = submit(config, environment, "--no-wait", "--set", "seed=1")
    assert "following it; its config is another" in other.stderr
    follower = subprocess.Popen(
        [sys.executable, "-m", "semievol_ray", "submit", str(config), "--address", ADDRESS],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stderr is not None and "already" in follower.stderr.readline()
    # By the config as by the run directory.
    run_dir = load_config(config).run_dir
    assert command(environment, "status", run_dir).stdout.startswith(f"{stem}1 ")
    stopped = command(environment, "stop", str(config))
    assert stopped.returncode == 0 and f"{stem}1 has ended" in stopped.stderr, stopped.stderr
    nothing_left = command(environment, "stop", run_dir)
    assert nothing_left.returncode == 2 and "no job of" in nothing_left.stderr
    assert "was stopped" in follower.communicate(timeout=120)[1].splitlines()[-1]
    assert follower.returncode == 1
    names = [
        j.submission_id for j in client.list_jobs() if (j.submission_id or "").startswith(stem)
    ]
    assert names == [f"{stem}1"]
    # What has ended is no hindrance: the run goes on under the next number.
    change(config, model={"name": "./no/model"})
    third = submit(config, environment)
    assert third.returncode == 2 and f"submitted {stem}2" in third.stderr
    # How the last one ended, with its log, for whoever was away.
    attached = command(environment, "attach", run_dir)
    assert attached.returncode == 2 and attached.stdout == third.stdout
    unknown = command(environment, "attach", f"{run_dir}-other")
    assert unknown.returncode == 2 and "knows no job of" in unknown.stderr


# -- connections that drop -------------------------------------------------------------------------

TALKER = """
import sys, time
for i in range(120):
    print(f"line {i} " + "x" * (i % 7 * 3000), flush=True)
    time.sleep(0.1)
sys.exit(7)
"""


def test_following_ends_with_the_job_however_often_the_connection_drops(
    client, environment, proxy, capsys
) -> None:
    job = client.submit_job(entrypoint=f"python -c '{TALKER}'")
    through = connected(environment, f"http://127.0.0.1:{proxy.port}")
    details = follow(through, job, f"http://127.0.0.1:{proxy.port}")
    assert (details.status, details.driver_exit_code) == (JobStatus.FAILED, 7)
    assert proxy.cuts >= 3
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if line.startswith("line ")]
    assert [int(line.split()[1]) for line in lines] == list(range(120))
    assert said.out == client.get_job_logs(job)
    assert "the connection was lost" in said.err and "connected again" in said.err


def test_a_job_that_the_cluster_has_forgotten_is_said(client, capsys) -> None:
    with pytest.raises(SemiEvolError, match="does not know semievol-gone-1 any more"):
        follow(client, "semievol-gone-1", f"http://127.0.0.1:{DASHBOARD}")


# -- secrets ---------------------------------------------------------------------------------------


def test_no_value_of_a_secret_is_in_anything_that_a_submission_wrote(
    config, environment, client, tmp_path
) -> None:
    names = {"HF_TOKEN": "${HF_TOKEN}", "JUDGE_KEY": "${HF_TOKEN}"}
    model = {"engine_options": {"token": "${HF_TOKEN}"}}
    change(config, ray={"runtime_env": {"env_vars": names}}, model=model)
    found = submit(config, environment)
    assert found.returncode == 2 and "no such file" in found.stdout
    assert SECRET not in found.stdout + found.stderr
    (job,) = [j for j in client.list_jobs() if j.metadata and j.metadata["run_dir"].startswith(
        str(tmp_path))]  # fmt: skip
    assert SECRET not in repr(job)
    config_of_job = base64.b64decode(job.entrypoint.split("b64decode('")[1].split("'")[0])
    assert b"${HF_TOKEN}" in config_of_job and SECRET.encode() not in config_of_job
    assert_no_secret_in(Path(environment["SEMIEVOL_TEST_RAY_FOLDER"]), tmp_path)


WORKER = """
import os
from semievol_ray.config import RayConfig
from semievol_ray.ray_session import connect
import ray
names = {"HF_TOKEN": "${HF_TOKEN}", "JUDGE_KEY": "${HF_TOKEN}"}
connect(RayConfig(runtime_env={"env_vars": names}))
values = ray.get(ray.remote(lambda: [os.environ[n] for n in ("HF_TOKEN", "JUDGE_KEY")]).remote())
print("the workers have", [value == os.environ["HF_TOKEN"] for value in values])
"""


def test_a_jobs_workers_have_the_values_of_their_nodes(client, environment, tmp_path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    # The job itself says PATH too, which Ray would refuse to hear twice.
    runtime_env = {"env_vars": {"PATH": worker_path(), "JUDGE_KEY": "${HF_TOKEN}"}}
    job = client.submit_job(entrypoint=f"python {program}", runtime_env=runtime_env)
    state = wait_for(client, job, JobStatus.SUCCEEDED, JobStatus.FAILED)
    logs = client.get_job_logs(job)
    assert state == JobStatus.SUCCEEDED, logs
    assert "the workers have [True, True]" in logs
    assert_no_secret_in(Path(environment["SEMIEVOL_TEST_RAY_FOLDER"]))


def assert_no_secret_in(*folders: Path) -> None:
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert any(path.name.startswith("job-driver-") for path in files)


# -- KubeRay's job ---------------------------------------------------------------------------------


def test_a_run_that_no_new_cluster_can_help_stops_its_own_job(config, client) -> None:
    """KubeRay tries a FAILED job again on a new cluster, and a STOPPED one never."""
    job = client.submit_job(entrypoint=f"python -m semievol_ray.rayjob {config}")
    assert wait_for(client, job, *TERMINAL) == JobStatus.STOPPED
    logs = client.get_job_logs(job)
    assert "data.unlabeled: no/such/file.csv: no such file" in logs
    assert "trying again would not help" in logs


def test_any_other_failure_is_left_to_be_tried_again(config, client, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    change(config, data={"unlabeled": str(config.parent / "data" / "unlabeled.csv")},
           run_dir=str(tmp_path / "file" / "run"))  # fmt: skip
    job = client.submit_job(entrypoint=f"python -m semievol_ray.rayjob {config} --until ingest")
    state = wait_for(client, job, *TERMINAL)
    assert state == JobStatus.FAILED, client.get_job_logs(job)
    assert client.get_job_info(job).driver_exit_code == 1, client.get_job_logs(job)
