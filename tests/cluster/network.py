"""A network of this machine's own: a bridge, and a namespace with a cable for each address."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

# Of what is set aside for benchmarks of networks, and so used by nobody (RFC 2544).
_SUBNET = f"198.18.{os.getpid() % 250}"


class Network:
    """The host is `host`; `add` gives an address and the words that a command there begins with."""

    host = f"{_SUBNET}.1"

    def __init__(self) -> None:
        self._name = f"sev{os.getpid() % 100_000}"
        self._cables: dict[str, int] = {}
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def add(self) -> tuple[str, list[str]]:
        """A namespace with an address of its own."""
        number = len(self._cables) + 2
        space, cable, address = self._space(number), self._cable(number), f"{_SUBNET}.{number}"
        _ip("netns", "add", space)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", cable, "master", self._name, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        self._cables[address] = number
        return address, ["ip", "netns", "exec", space]

    def cut(self, address: str) -> None:
        """Nothing gets through to an address any more, and nothing from it."""
        _ip("link", "set", self._cable(self._cables[address]), "down")

    def mend(self, address: str) -> None:
        """The cable is in its place again."""
        _ip("link", "set", self._cable(self._cables[address]), "up")

    def close(self) -> None:
        """Take all of it away."""
        for number in self._cables.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._space(number))
        _ip("link", "del", self._name)

    def _space(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _cable(self, number: int) -> str:
        return f"{self._name}v{number}"


def network_here() -> Network | None:
    """A network; null where this process may not make one."""
    if shutil.which("ip") is None:
        return None
    try:
        return Network()
    except subprocess.CalledProcessError:
        return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
