"""The whole pipeline on machines that share nothing but a bucket; some of them, and the head, die.

What comes out is, byte for byte, what a run on one machine with a local folder leaves. A path of
one machine that travelled to another would be found missing there at once.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml

from semievol_ray.results import Run
from semievol_ray.store import RunDirectory
from tests.cluster.machines import Machines, require_namespaces
from tests.e2e.conftest import finish, write_run
from tests.object_store import CREDENTIALS, make_bucket, s3_server, uri

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(1500)]

# Forty steps, and shards enough that a machine can be lost amid them.
TRAINING = {"epochs": 20, "method": "lora", "workers": 2, "checkpoint_every_steps": 10,
            "max_failures": 3}  # fmt: skip
SECTIONS = {
    "warmup": {"training": {}},
    "evolve": {"training": {"epochs": 1}},
    "generation": {"replicas": {"min": 2, "max": 2}, "max_tokens": 4, "batch_rows": 8},
}


@pytest.fixture
def machines(monkeypatch) -> Iterator[Machines]:
    require_namespaces()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    made = Machines(redis=shutil.which("redis-server") is not None)
    yield made
    made.close()


def config(folder: Path, **more) -> Path:
    folder.mkdir(exist_ok=True)
    path = write_run(folder, **SECTIONS, **more)
    values = yaml.safe_load(path.read_text())
    values["training"] |= TRAINING
    values["data"]["shard_rows"] = 12
    path.write_text(yaml.safe_dump(values))
    return path


def results(run: RunDirectory) -> dict[str, bytes]:
    """Tables and weights, by names without the numbers of attempts."""
    found = {}
    for stage in ("ingest", "retrieve", "warmup", "round-1"):
        for name in run.all_files(stage):
            if name.endswith((".parquet", ".safetensors")):
                with run.filesystem.open_input_stream(run.full_path(name)) as source:
                    found[re.sub(r"attempt-\d+", "attempt", name)] = source.read()
    return found


def wait_for(happened: Callable[[], bool], driver: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 400
    while not happened():
        assert driver.poll() is None, f"it ended first: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def attach(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = f"import ray; ray.init(address={address!r}, logging_level='ERROR')"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_closed(machines: Machines, submit: list[str]) -> None:
    """Without the cluster's token neither jobs, scheduler nor dashboard are to be had."""
    stranger = machines.environment | {"RAY_AUTH_TOKEN": "bad0" * 12}
    found = subprocess.run(submit, env=stranger, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and "does not take the job" in found.stderr, found.stderr
    # Ray's client says of a refusal only that it cannot connect.
    for address, reason in ((machines.address, "nauth"), (machines.client, "ConnectionError")):
        outside = attach(address, stranger)
        assert outside.returncode != 0 and reason in outside.stderr, outside.stderr[-1000:]
        # With it they are. The server of a client is given half a minute to start, and on a busy
        # machine takes more.
        inside = (attach(address, machines.environment) for _ in range(5))
        assert any(found.returncode == 0 for found in inside), address
    for page in ("/nodes?view=summary", "/api/jobs/", "/api/v0/nodes", "/logs"):
        with pytest.raises(HTTPError) as refused:
            urlopen(machines.jobs + page, timeout=60)
        assert refused.value.code == 401, page


def test_a_run_over_an_object_store_survives_its_machines(machines, tmp_path) -> None:
    here = config(tmp_path / "here")
    finish(here)
    first, second = machines.add(), machines.add()
    with s3_server(machines.host) as port:
        make_bucket(port, machines.host)
        run = RunDirectory(uri(port, "far", machines.host))
        far = config(tmp_path / "far", run_dir=run.uri)
        log = tmp_path / "far" / "out.txt"
        command = [sys.executable, "-m", "semievol_ray", "submit", str(far), "--address",
                   machines.jobs]  # fmt: skip
        assert_closed(machines, command)
        with log.open("wb") as out:
            driver = subprocess.Popen(command, env=machines.environment, stdout=out, stderr=out)

        def has(pattern: str, folder: str) -> bool:
            return any(re.search(pattern, name) for name in run.all_files(folder))

        wait_for(lambda: has(r"checkpoints/step-\d+/manifest\.json$", "warmup"), driver, log)
        machines.remove(second)
        third = machines.add()
        wait_for(lambda: has(r"shard-\d+\.parquet$", "round-1/generate"), driver, log)
        if machines.network is not None:
            machines.network.cut(third)
            time.sleep(30)
            machines.network.mend(third)
            # Ray has given it up by then, and it ends itself: whoever runs it starts another.
            machines.add()
        machines.remove(first)
        machines.add()
        if machines.restarts:
            wait_for(lambda: has(r"evolve/.*examples/", "round-1"), driver, log)
            machines.restart_head()
        assert driver.wait(timeout=900) == 0, log.read_text()[-3000:] + machines.log()[-3000:]
        # The job went with the head, and the command that followed it submitted it again.
        said = log.read_text()
        assert said.count("submitted semievol-far-") == 1 + machines.restarts, said[-3000:]
        assert said.count("went with the machine it ran on") == machines.restarts
        far_results, here_results = results(run), results(RunDirectory(str(here.parent / "run")))
        assert far_results.keys() == here_results.keys()
        assert [n for n in here_results if here_results[n] != far_results[n]] == []
        assert Run(run.uri).metrics == Run(str(here.parent / "run")).metrics
        # The training went on from its checkpoint, on a machine that had never seen it.
        name = next(n for n in run.all_files("warmup") if n.endswith("logs/metrics.jsonl"))
        with run.filesystem.open_input_stream(run.full_path(name)) as source:
            steps = [json.loads(line)["step"] for line in source.read().splitlines()]
        resumed = [b for a, b in itertools.pairwise(steps) if b != a + 1]
        assert steps[0] == 1 and steps[-1] == 40, steps
        assert all(step % 10 == 1 and step > 1 for step in resumed), steps
        assert not [n for n in run.all_files("warmup") if "/scratch/" in n]
        everything = b"".join(
            run.filesystem.open_input_stream(run.full_path(n)).read()
            for n in run.all_files("") if n.endswith((".json", ".md"))
        )  # fmt: skip
        assert b"/tmp/" not in everything.replace(str(tmp_path).encode(), b""), "a path travelled"
