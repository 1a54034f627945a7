"""A TCP proxy on loopback that cuts what goes through it, as networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Forwards to a port; every `seconds` it resets all connections, and takes none for a while."""

    def __init__(self, port: int, *, seconds: float) -> None:
        self.target, self.seconds = port, seconds
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.open: list[socket.socket] = []
        self.cuts = 0
        self.refusing = threading.Event()
        self.closed = threading.Event()
        for work in (self._accept, self._cut):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self.server.close()
        self._reset()

    def _accept(self) -> None:
        while not self.closed.is_set():
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if self.refusing.is_set():
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.target))
            self.open += [client, upstream]
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()

    def _cut(self) -> None:
        while not self.closed.wait(self.seconds):
            self.refusing.set()
            self.cuts += bool(self._reset())
            time.sleep(self.seconds / 4)
            self.refusing.clear()

    def _reset(self) -> int:
        reset, self.open = self.open, []
        for end in reset:
            with contextlib.suppress(OSError):
                # No polite goodbye: a reset.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(reset)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 14):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
