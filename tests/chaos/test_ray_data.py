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
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from ray import cloudpickle

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.chaos,
    pytest.mark.usefixtures("ray_session"),
    # Its session ends under a pipeline that never does.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# The pool gives a shard up after three deaths before any request, and finds a row in a few.
MORE_THAN_ENOUGH = 8


class Answer:
    """Takes shard references; one of them kills the process that works on it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, batch):
        for item in batch["item"]:
            (self.folder / f"{item}-{os.getpid()}-{time.monotonic_ns()}").touch()
            if item == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return batch


def test_ray_data_retries_a_poisonous_shard_without_end(tmp_path) -> None:
    work = (
        ray.data.from_items([{"item": i} for i in range(6)], override_num_blocks=6)
        .map_batches(
            Answer,
            fn_constructor_args=(str(tmp_path),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=1),
        )
    )  # fmt: skip
    ended: list[object] = []

    def consume() -> None:
        try:
            ended.append(work.take_all())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("3-*"))) < MORE_THAN_ENOUGH and not ended:
        assert time.monotonic() < deadline, f"{len(list(tmp_path.glob('3-*')))} deaths in time"
        time.sleep(0.2)
    assert not ended, f"Ray Data ended by itself: {ended}"
