"""A two-round run on real Ray, killed again and again in every stage, training and redo among them.

Drivers, replicas and training workers get SIGKILL at random moments; two drivers try at once; and a
finished run is begun anew at a random stage and killed again. What is there at the end is, byte for
byte, what a run that nobody touched leaves: tables, adapters and all.

A soak, for hours (`make chaos`): SEMIEVOL_CHAOS_KILLS says how many, SEMIEVOL_CHAOS_SECONDS bounds
it. What is killed in every test run is in tests/e2e, tests/cluster and the rest of this folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from semievol_ray.results import Run
from tests.e2e.conftest import finish, write_run

KILLS = int(os.environ.get("SEMIEVOL_CHAOS_KILLS", "0"))
SECONDS = float(os.environ.get("SEMIEVOL_CHAOS_SECONDS", "5400"))

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(SECONDS + 3600)]

STAGES = ("ingest", "warmup", "retrieve",
          "round-1/generate", "round-1/justify", "round-1/select", "round-1/evolve",
          "round-2/generate", "round-2/justify", "round-2/select", "round-2/evolve",
          "baselines", "round-2/evaluate")  # fmt: skip
# Mean seconds between two kills: a replica is back in two, a training in ten or more.
PAUSES = {"generate": 2.0, "warmup": 15.0, "evolve": 15.0}


def config(folder: Path) -> Path:
    """120 unlabelled rows in 60 shards; two simulated voters that take their time, and one real."""
    folder.mkdir()
    path = write_run(folder)
    values = yaml.safe_load(path.read_text())
    teams = values["task"]["labels"]
    slow = {"choices": teams, "median_tokens": 2, "tokens_per_second": 6.0}
    values["models"] = {"sim": {"name": "sim", "engine": "simulated", "engine_options": slow}}
    values["collaborators"] = [
        {"model": "sim", "name": "one"}, {"model": "sim", "name": "two"}, {"model": "warm"},
    ]  # fmt: skip
    values["data"]["shard_rows"] = 2
    values["generation"] |= {"replicas": {"min": 1, "max": 2}, "max_restarts": 1000}
    values["training"] |= {"epochs": 6, "checkpoint_every_steps": 3, "max_failures": 1000}
    values["iteration"] = {"rounds": 2}
    values["ray"] = {"num_cpus": 2}
    path.write_text(yaml.safe_dump(values))
    return path


def results(run: Path) -> dict[str, bytes]:
    """Tables and weights that count, by names without the numbers of attempts."""
    names = [n for m in Run(str(run)).manifests for n in (*m.outputs, *m.files)]
    kept = [n for n in names if n.endswith((".parquet", ".safetensors"))]
    return {re.sub(r"attempt-\d+", "attempt", n): (run / n).read_bytes() for n in kept}


class Storm:
    """Starts a run again and again, and kills what it started."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path, self.rng = path, rng
        self.kills: Counter[str] = Counter()
        self.refused = self.redone = 0

    def run_once(self, redo: str | None, *, calm: bool) -> None:
        """One whole run, however many drivers it takes."""
        while True:
            driver = self.start(*(("--redo", redo) if redo else ()))
            with ended(driver):
                code = driver.wait() if calm else self.torment(driver)
            if code == 0:
                return
            # A redo that had begun is gone on with; one that had not is asked for again.
            if redo and self.dropped(redo):
                self.redone += 1
                redo = None

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        with (self.path.parent / "out.txt").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "semievol_ray", "run", str(self.path), *options],
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def torment(self, driver: subprocess.Popen[bytes]) -> int:
        """Kill at random until the driver is dead or done."""
        while True:
            stage = self.stage()
            pause = self.rng.expovariate(1 / PAUSES.get(stage, 6.0))
            with contextlib.suppress(subprocess.TimeoutExpired):
                return driver.wait(timeout=pause)
            if self.rng.random() < 0.03:
                self.rival()
            if self.rng.random() < 0.12:
                self.kills[f"driver in {self.stage()}"] += 1
                driver.kill()
                return driver.wait()
            victims = workers(driver.pid)
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.rng.choice(victims), signal.SIGKILL)
                    self.kills[f"worker in {self.stage()}"] += 1

    def rival(self) -> None:
        """A second driver, while the first one works: it is refused in one line."""
        other = self.start()
        assert other.wait(timeout=120) in (0, 2)
        self.refused += other.returncode == 2

    def stage(self) -> str:
        """The stage that is being done, by the manifests: the last one that was begun."""
        running = []
        for path in (self.path.parent / "run" / "manifests").glob("*.json"):
            with contextlib.suppress(OSError):
                if '"state": "running"' in path.read_text():
                    running.append(path.stem.rpartition(".")[2])
        order = ("generate", *(stage.rpartition("/")[2] for stage in STAGES))
        return min(running, key=order.index, default="no stage")

    def dropped(self, stage: str) -> bool:
        manifest = self.path.parent / "run" / "manifests" / f"{stage.replace('/', '.')}.json"
        return not manifest.exists() or '"state": "done"' not in manifest.read_text()


@contextlib.contextmanager
def ended(driver: subprocess.Popen[bytes]) -> Iterator[None]:
    """After it nothing that a driver started is left."""
    yield
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)


def workers(session: int) -> list[int]:
    """Ray's workers of a driver that are at something: replicas, trainings, tasks."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_bytes()
            # With one of its agents a node dies as a whole: that is tests/cluster's.
            if title.startswith(b"ray::") and not re.match(rb"ray::(IDLE|\w*Agent)", title):
                status = (process / "stat").read_text().rpartition(")")[2].split()
                if int(status[3]) == session:
                    found.append(int(process.name))
    return found


@pytest.mark.skipif(not KILLS, reason="a soak: make chaos")
def test_a_run_that_is_killed_everywhere_is_the_one_that_nobody_touched(tmp_path) -> None:
    calm = config(tmp_path / "calm")
    finish(calm)
    storm = Storm(config(tmp_path / "storm"), random.Random(os.environ.get("SEMIEVOL_SEED", "7")))
    deadline = time.monotonic() + SECONDS
    redo: str | None = None
    runs = 0
    while True:
        storm.run_once(redo, calm=False)
        runs += 1
        ours, wanted = results(storm.path.parent / "run"), results(calm.parent / "run")
        assert ours.keys() == wanted.keys()
        assert [name for name in wanted if ours[name] != wanted[name]] == []
        total = storm.kills.total()
        print(f"{runs} runs, {total} kills, {storm.refused} rivals refused, {storm.redone} redone:"
              f" {dict(storm.kills.most_common())}", flush=True)  # fmt: skip
        if total >= KILLS or time.monotonic() > deadline:
            break
        redo = storm.rng.choice(STAGES)
    out = (storm.path.parent / "out.txt").read_text()
    assert "Traceback" not in out
