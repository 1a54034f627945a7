"""Word that a worker's machine is going: the training takes a checkpoint while it can.

It comes from Ray, which is told of spot nodes that are reclaimed and of nodes that are drained, or
as SIGTERM to a process that trains by itself.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

_ASK_EVERY_SECONDS = 2.0


class Notice:
    """Whether this worker has been told to go; asked after each step."""

    def __init__(self) -> None:
        self.given = False
        self._ended = threading.Event()
        self._before: Any = None
        self._catches = False

    def __enter__(self) -> Notice:
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
            threading.Thread(target=self._ask, args=(node,), name="notice", daemon=True).start()
        elif threading.current_thread() is threading.main_thread():
            self._before, self._catches = signal.signal(signal.SIGTERM, self._on_signal), True
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._catches:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.given = True

    def _ask(self, node: str) -> None:
        from semievol_ray.ray_session import draining_nodes

        while not self._ended.wait(_ASK_EVERY_SECONDS):
            try:
                self.given = node in draining_nodes()
            except Exception as error:  # a head that restarts is no reason to end a training
                log.warning("Ray does not say which nodes are going: %s", error)
