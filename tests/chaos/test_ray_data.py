"""Why the fleet is scheduled here and not by Ray Data's actor pool (design: Ray Data first).

The promise that breaks with it: a row that kills its engine costs itself alone and is not retried
for ever. Ray Data retries what an actor's death interrupted without end, each time on an actor that
dies of it, and nothing in its interface says which item that was: so neither can the item be given
up, nor the row be looked for inside it. tests/engines/test_pool.py keeps the same promise with the
pool of this project. Should this test fail, Ray Data has learned it, and the pool can go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

# The pool gives a shard up after three deaths before any request, and finds a row in a few.
MORE_THAN_ENOUGH = 8

# A program of its own: a pipeline that never ends outlives no test's session.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import ray

class Answer:
    def __call__(self, batch):
        for item in batch["item"]:
            (Path(sys.argv[1]) / f"{item}-{os.getpid()}-{time.monotonic_ns()}").touch()
            if item == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return batch

ray.init(address="local", num_cpus=2, include_dashboard=False)
work = ray.data.from_items([{"item": i} for i in range(6)], override_num_blocks=6)
pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
work.map_batches(Answer, batch_size=1, compute=pool).take_all()
"""


def test_ray_data_retries_a_poisonous_shard_without_end(tmp_path) -> None:
    program, seen = tmp_path / "program.py", tmp_path / "seen"
    seen.mkdir()
    program.write_text(PROGRAM.replace("sys.argv[1]", repr(str(seen))))
    with (tmp_path / "log").open("wb") as log:
        work = subprocess.Popen(
            [sys.executable, str(program)], stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while deaths(seen) < MORE_THAN_ENOUGH and work.poll() is None:
            assert time.monotonic() < deadline, f"{deaths(seen)} deaths in time"
            time.sleep(0.2)
        assert work.poll() is None, "Ray Data ended by itself: " + (tmp_path / "log").read_text()
    finally:
        os.killpg(work.pid, signal.SIGKILL)
        work.wait()


def deaths(folder: Path) -> int:
    """How often the poisonous item was begun."""
    return len(list(folder.glob("3-*")))
