"""Machines of one Ray cluster that share no disk and see no processes of one another.

Each is a Ray node in mount, process and network namespaces of its own, with an empty /tmp and an
address of its own. Only the installation and what crosses the network is common, as with pods.
Where no network can be made, each has another address of the loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from semievol_ray.ray_session import worker_path
from tests.cluster.network import network_here
from tests.object_store import free_port

_RAY = Path(worker_path().split(os.pathsep)[0]) / "ray"


def require_namespaces() -> None:
    """Skip, saying so, where this process may not make namespaces."""
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-m", "-p", "-f", "--mount-proc", "true"], capture_output=True
        ).returncode
    ):
        pytest.skip("no mount and process namespaces here: unshare is not permitted")


class Machines:
    """A head that schedules and does no work, and machines that come and go.

    With `redis` the head keeps what it knows in a Redis of its own, and can be started again.
    """

    def __init__(self, *, redis: bool = False) -> None:
        # Not below pytest's own folder: the paths of Ray's sockets must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self._port, self._jobs, client = free_port(), free_port(), free_port()
        self._machines: dict[str, subprocess.Popen[bytes]] = {}
        self.network = network_here()
        self.host = "127.0.0.1" if self.network is None else self.network.host
        self.jobs = f"http://{self.host}:{self._jobs}"
        self.client = f"ray://{self.host}:{client}"
        self.environment = os.environ | {
            "PATH": worker_path(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "c0ffee" * 8,
            "RAY_worker_niceness": "0",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._store: list[str] = []
        self._redis = self._start_redis() if redis else None
        self._head = self._start_head()

    @property
    def restarts(self) -> bool:
        """Whether a head can come back."""
        return self._redis is not None

    @property
    def address(self) -> str:
        """Where drivers and nodes find the head."""
        return f"{self.host}:{self._port}"

    def add(self, *, cpus: int = 1) -> str:
        """A new machine; returns its address."""
        address, inside = f"127.0.0.{len(self._machines) + 2}", []
        if self.network is not None:
            address, inside = self.network.add()
        ray = (
            f"{_RAY} start --address={self.address} --num-cpus={cpus} "
            f"--node-ip-address={address} --disable-usage-stats --block"
        )
        self._machines[address] = self._start(
            [*inside, "unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c",
             f"mount -t tmpfs tmpfs /tmp && exec {ray}"],
            address,
            # Or gloo would look for the address of the name that all of them share.
            {"GLOO_SOCKET_IFNAME": "eth0"} if inside else {},
        )  # fmt: skip
        return address

    def remove(self, address: str) -> None:
        """The machine is gone at once, with all that runs there and all that is on its disk."""
        _kill_within(self._machines[address])

    def restart_head(self) -> None:
        """The head is gone at once, with all that runs there, and one with its address comes."""
        _kill_within(self._head)
        self._head = self._start_head()

    def close(self) -> None:
        """End them all."""
        for machine in self._machines.values():
            with contextlib.suppress(OSError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait(timeout=30)
        _kill_within(self._head)
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait(timeout=30)
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What they said."""
        return "\n".join(p.read_text(errors="replace") for p in self._folder.glob("*.out"))

    def _start(
        self, command: list[str], name: str, more: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.out").open("wb") as out:
            return subprocess.Popen(
                command,
                env=self.environment | more,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _start_head(self) -> subprocess.Popen[bytes]:
        head = self._start(
            ["unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc",
             str(_RAY), "start", "--head", f"--port={self._port}", "--num-cpus=0",
             f"--node-ip-address={self.host}", f"--dashboard-host={self.host}",
             f"--ray-client-server-port={self.client.rpartition(':')[2]}",
             f"--dashboard-port={self._jobs}", f"--dashboard-agent-listen-port={free_port()}",
             "--disable-usage-stats", f"--temp-dir={self._folder}", "--block", *self._store],
            "head",
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while b"runtime started" not in (self._folder / "head.out").read_bytes():
            assert head.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.2)
        return head

    def _start_redis(self) -> subprocess.Popen[bytes]:
        port, password = free_port(), "cafe" * 8
        self._store = [f"--redis-password={password}"]
        self.environment |= {
            "RAY_REDIS_ADDRESS": f"{self.host}:{port}",
            # As KubeRay has it: for so long the machines look for a head that is started again.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }
        return self._start(
            ["redis-server", "--bind", self.host, "--port", str(port), "--requirepass", password,
             "--save", "", "--dir", str(self._folder)],
            "redis",
        )  # fmt: skip


def _kill_within(unshared: subprocess.Popen[bytes]) -> None:
    """The first process of a namespace takes all others with it."""
    children = Path(f"/proc/{unshared.pid}/task/{unshared.pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        os.kill(int(child), signal.SIGKILL)
    unshared.wait(timeout=30)
