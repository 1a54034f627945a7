"""One driver at a time: however many want it, whoever is killed, whichever clock is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.store import Lease, RunDirectory
from semievol_ray.store.lease import Claim

HOLD = """
import sys, time
from semievol_ray.store import Lease, RunDirectory
with Lease(RunDirectory(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process


def claims(folder: Path) -> list[Path]:
    return sorted((folder / "lease").glob("*.json"))


def test_the_second_is_told_who_has_it(tmp_path) -> None:
    with hold(tmp_path, 60) as first:
        assert first.stdout.readline() == "held\n"
        message = rf"process {first.pid} on .* works on it since .*semievol status {tmp_path}"
        with pytest.raises(UserError, match=message), Lease(RunDirectory(str(tmp_path))):
            pass
        # A killed one leaves its claim behind, and it counts no more.
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert len(claims(tmp_path)) == 1
        with Lease(RunDirectory(str(tmp_path))):
            assert len(claims(tmp_path)) == 1
    assert not claims(tmp_path)


def test_of_many_at_once_one_wins(tmp_path) -> None:
    held: list[float] = []
    refused: list[Exception] = []
    inside = threading.Semaphore(1)

    def take() -> None:
        try:
            with Lease(RunDirectory(str(tmp_path))):
                assert inside.acquire(blocking=False), "two have it"
                time.sleep(0.05)
                held.append(time.monotonic())
                inside.release()
        except SemiEvolError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held and len(held) + len(refused) == 8
    assert not claims(tmp_path)


def write_foreign(folder: Path, *, seconds_old: float) -> Path:
    """The claim of a process on a machine that cannot be asked."""
    claim = dataclasses.replace(Claim.mine(), machine="another", host="far", holds=True)
    path = folder / "lease" / f"{claim.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(claim)))
    then = time.time() - seconds_old
    os.utime(path, (then, then))
    return path


def test_one_of_another_machine_counts_while_it_is_renewed(tmp_path) -> None:
    path = write_foreign(tmp_path, seconds_old=0)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.1):
            path.touch()

    renewing = threading.Thread(target=renew)
    renewing.start()
    lease = Lease(RunDirectory(str(tmp_path)), renew_seconds=0.4, expiry_seconds=2)
    with pytest.raises(UserError, match=r"process \d+ on far works on it"), lease:
        pass
    stop.set()
    renewing.join()
    # Nobody renews it any more: it is outlasted.
    lease = Lease(RunDirectory(str(tmp_path)), renew_seconds=0.4, expiry_seconds=1)
    with lease:
        assert not path.exists()


def test_an_expired_one_is_taken_over_at_once(tmp_path) -> None:
    path = write_foreign(tmp_path, seconds_old=600)
    started = time.monotonic()
    with Lease(RunDirectory(str(tmp_path))):
        assert time.monotonic() - started < 5 and not path.exists()


def test_who_was_away_too_long_has_lost_it(tmp_path) -> None:
    """A laptop that slept: another driver has taken over, and this one must not go on."""
    run = RunDirectory(str(tmp_path))
    with Lease(run, renew_seconds=0.1) as lease:
        lease.check()
        for path in claims(tmp_path):
            path.unlink()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.05)
            try:
                lease.check()
            except SemiEvolError as error:
                assert "has taken over" in str(error)
                return
    raise AssertionError("it went on")
