"""One small undisturbed run that the end-to-end tests share, and the command that made it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from semievol_ray.config_file import config_yaml
from semievol_ray.demo import demo_config, write_demo_data


def write_run(folder: Path, **sections) -> Path:
    """A config file for a small run in a folder: 24 labels, 120 unlabelled, 60 test rows."""
    write_demo_data(folder / "data", seed=3)
    for split, rows in (("labeled", 24), ("unlabeled", 120), ("test", 60)):
        path = folder / "data" / f"{split}.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: rows + 1]))
    values = yaml.safe_load(config_yaml(demo_config(folder, 3)))
    values["data"]["shard_rows"] = 40
    values["generation"]["replicas"] = {"min": 1, "max": 1}
    # One worker: two are the demo's and those of tests/training, and start for half a minute. One
    # thread: tests run beside each other, and threads wait for those whose core another test has.
    values["generation"]["cpus_per_replica"] = 1
    values["training"].update({"epochs": 2, "method": "lora", "workers": 1, "cpus_per_worker": 1})
    values["warmup"] = values["evolve"] = {}
    values["justify"] = {"when": "always"}
    values["evaluation"]["references"] = []
    values["selection"] = {"policy": "paper", "percentile": 50}
    values.update(sections)
    path = folder / "semievol.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(config: Path) -> subprocess.Popen:
    """`semievol run CONFIG` in a process group of its own."""
    log = (config.parent / "out.txt").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "semievol_ray", "run", str(config)],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def finish(config: Path) -> None:
    """Run to the end."""
    code = start(config).wait(timeout=1200)
    assert code == 0, (config.parent / "out.txt").read_text()[-3000:]


def semievol(*arguments: str) -> subprocess.CompletedProcess:
    """One command, as a user would type it."""
    return subprocess.run(
        [sys.executable, "-m", "semievol_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The run directory of a finished run; its config lies beside it."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    # Of the processes that test beside each other the first makes it, and the others wait.
    with (common / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = common / "undisturbed"
        if not made.exists():
            trying = Path(tempfile.mkdtemp(dir=common)) / "undisturbed"
            trying.mkdir()
            finish(write_run(trying))
            made.symlink_to(trying)
    return made.resolve() / "run"
