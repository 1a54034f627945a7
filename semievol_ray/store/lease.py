"""Who works on a run: at most one driver at a time, on a local disk and in any object store.

A driver writes a claim of its own, and only then looks for others. Whoever finds another living
claim steps back. Of two drivers the one that wrote its claim last sees the other's, so both can
never go on; that needs no conditional write, only a store whose listings show what was written
before (a local disk, S3, GCS and Azure all do). Two that step back at once try again after waits
of random length.

A claim lives while its process does, where that can be asked, and else while it is renewed. Ages
are read off the store's own clock: those of the machines may differ.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyarrow import fs

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.store import layout
from semievol_ray.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
EXPIRY_SECONDS = 90.0
_TRIES = 20


@dataclass(frozen=True)
class Claim:
    """What a driver says of itself."""

    id: str
    host: str
    # Process ids mean something within one boot and one process namespace alone.
    machine: str
    pid: int
    process_started: str
    since: str
    # The Ray job that the driver is, if it is one.
    job: str | None = None
    holds: bool = False

    @classmethod
    def mine(cls) -> Claim:
        """A claim of this process."""
        return cls(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_started=_process_start(os.getpid()) or "",
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            job=os.environ.get("RAY_JOB_SUBMISSION_ID"),
        )


class Lease:
    """The right to work on a run, for as long as the block lasts.

    Raises UserError where another driver has it, naming that one and how to follow it.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        renew_seconds: float = RENEW_SECONDS,
        expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:
        self._run = run
        self._renew_seconds, self._expiry_seconds = renew_seconds, expiry_seconds
        self._claim = Claim.mine()
        self._ended = threading.Event()
        self._lost: Claim | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # it expires by itself
            self._run.delete_file(self._name)

    def check(self) -> None:
        """Raise SemiEvolError where another driver has taken over from this one."""
        if self._lost is not None:
            raise SemiEvolError(
                f"{self._run.uri}: this process was away for too long, and "
                f"{_who(self._lost)} has taken over"
            )

    @property
    def _name(self) -> str:
        return f"{layout.LEASE}/{self._claim.id}.json"

    def _write(self) -> None:
        self._run.write_json(self._name, asdict(self._claim))

    def _acquire(self) -> None:
        for number in range(_TRIES):
            self._write()
            others = self._others()
            if not others:
                self._claim = replace(self._claim, holds=True)
                self._write()
                return
            self._run.delete_file(self._name)
            holder = next((claim for claim in others if claim.holds), None)
            if holder is None and number > _TRIES // 2:
                holder = others[0]  # one that wanted it, and is gone perhaps
            if holder is not None:
                self._outlast(holder)
            time.sleep(random.random())
        raise SemiEvolError(f"{self._run.uri}: several processes want it at once; run again")

    def _outlast(self, holder: Claim) -> None:
        """Wait until a claim has expired. Raises UserError as soon as it is seen to live."""
        name = f"{layout.LEASE}/{holder.id}.json"
        seen = self._written(name)
        if _is_alive(holder) is None:
            log.warning("waiting to see whether %s still works on %s", _who(holder), self._run.uri)
            deadline = time.monotonic() + self._expiry_seconds + self._renew_seconds
            while time.monotonic() < deadline and seen is not None:
                time.sleep(min(1.0, self._renew_seconds / 4))
                now = self._written(name)
                if now is None:
                    return
                if now != seen:
                    break
            else:
                # Nobody renewed it: the next look counts it as dead.
                return
        raise UserError(
            f"run_dir {self._run.uri}: {_who(holder)} works on it since {holder.since}; look on "
            f"with: semievol status {self._run.uri}"
        )

    def _others(self) -> list[Claim]:
        """The living claims of others. Dead ones are removed: they can never come back."""
        mine = self._written(self._name)
        found = []
        for name in self._run.files(layout.LEASE, ".json"):
            values = self._run.read_json(name) if name != self._name else None
            if values is None:
                continue
            claim, written = Claim(**values), self._written(name)
            alive = _is_alive(claim)
            if alive is None and mine is not None and written is not None:
                alive = mine - written < self._expiry_seconds
            if alive is False:
                self._run.delete_file(name)
            else:
                found.append(claim)
        return found

    def _written(self, name: str) -> float | None:
        """When a claim was last written, in seconds of the store's clock; null if it is gone."""
        info = self._run.filesystem.get_file_info(self._run.full_path(name))
        return None if info.type == fs.FileType.NotFound else info.mtime_ns / 1e9

    def _keep(self) -> None:
        while not self._ended.wait(self._renew_seconds):
            try:
                if self._run.exists(self._name):
                    self._write()
                    taken = None
                else:
                    taken = next(iter(self._others()), self._claim)
                if taken is not None:
                    self._lost = taken
                    return
            except (OSError, SemiEvolError) as error:
                # A store that is away for a while costs the lease only once it has expired.
                log.warning("the lease of %s cannot be renewed: %s", self._run.uri, error)


def _is_alive(claim: Claim) -> bool | None:
    """Whether the process of a claim runs; null where this machine cannot tell."""
    if claim.machine != _machine():
        return None
    return bool(claim.process_started) and _process_start(claim.pid) == claim.process_started


def _machine() -> str:
    """This boot of this machine, and this process namespace in it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex  # no Linux: nobody's processes can be asked after


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: a number that is used again differs here."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _who(claim: Claim) -> str:
    job = f" (Ray job {claim.job})" if claim.job else ""
    return f"process {claim.pid} on {claim.host}{job}"
