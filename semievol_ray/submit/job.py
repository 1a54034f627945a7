"""`semievol submit`: the same config as a Ray job, followed to its end, its exit code passed on.

Only the config travels, and of secrets only their names. Data, models and the run directory are
named by paths or URIs that the cluster can read: `ray job submit` copies no corpus. A token
(RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names) is read by Ray's own client and appears
nowhere here.
"""

from __future__ import annotations

import base64
import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from semievol_ray.config import Config
from semievol_ray.config_file import config_yaml, load_config
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.store import digest
from semievol_ray.submit.follow import follow as follow_job
from semievol_ray.submit.lost import JobLostError, is_lost

_AGENT_SECONDS = 60.0
# Ray itself kills a job that has not ended after three seconds.
_STOP_SECONDS, _LOOK_SECONDS = 60.0, 0.2
# Of a job whose machine is lost: a run that takes its machine down each time must end.
_ATTEMPTS = 4

# The config reaches the job inside the command, so that no file has to be uploaded; on the cluster
# it lies in a folder of its own, for jobs share the working folder of the node.
_ENTRYPOINT = (
    'python -c "import base64, pathlib, sys, tempfile; '
    "config = pathlib.Path(tempfile.mkdtemp()) / 'semievol.yaml'; "
    "config.write_bytes(base64.b64decode('{config}')); "
    "from semievol_ray.cli import main; sys.exit(main(['run', str(config)]))\""
)


def submit(
    config_path: str, overrides: tuple[str, ...], *, address: str, follow: bool = True
) -> int:
    """Submit a config to the cluster's dashboard address; returns the exit code of the job.

    Where a job of the same run is waiting or running, that one is followed and none is started. One
    that is lost with the machine it ran on, as with a head that is started again, is submitted
    again: the run goes on where it stood. Without `follow` it returns 0 as soon as the job is
    accepted. Raises UserError where no cluster answers or the token is refused.
    """
    config = load_config(config_path, overrides)
    for attempt in range(_ATTEMPTS):
        with _asking(address, "take the job") as client:
            job = _attach_or_submit(client, config, Path(config_path).name, address)
        if not follow:
            break
        try:
            return _followed(client, job, address)
        except JobLostError as lost:
            if attempt == _ATTEMPTS - 1:
                raise
            print(f"{lost}: doing so", file=sys.stderr)
    return 0


def attach(run: str, *, address: str) -> int:
    """Follow the job of a run that waits or runs, or tell how its last one ended, as `submit` does.

    `run` is the config's file or the run directory. Raises UserError where there was no such job,
    and where no cluster answers or the token is refused.
    """
    run_dir = _run_dir(run)
    with _asking(address) as client:
        jobs = _jobs(client, run_dir)
        living = [job for job in jobs if _lives(job, address)]
    if not jobs:
        raise UserError(f"--address {address}: the cluster knows no job of {run_dir}")
    return _followed(client, str((living or jobs)[-1].submission_id), address)


def stop(run: str, *, address: str) -> int:
    """End the jobs of a run that wait or run, and return 0 when they have ended.

    What the run has committed stays, and submitting again goes on from there. Raises as `attach`,
    and SemiEvolError where a job does not end.
    """
    run_dir = _run_dir(run)
    with _asking(address) as client:
        living = [job for job in _jobs(client, run_dir) if _lives(job, address)]
        if not living:
            raise UserError(f"--address {address}: no job of {run_dir} waits or runs")
        for job in living:
            client.stop_job(job.submission_id)
        deadline = time.monotonic() + _STOP_SECONDS
        for job in living:
            while not client.get_job_status(job.submission_id).is_terminal():
                if time.monotonic() > deadline:
                    raise SemiEvolError(f"{job.submission_id} has not ended yet; ask again")
                time.sleep(_LOOK_SECONDS)
            print(f"{job.submission_id} has ended; submit again to go on", file=sys.stderr)
    return 0


def states(run: str, *, address: str) -> list[tuple[str, str]]:
    """Ids of the jobs of a run that the cluster knows, oldest first, and how each is."""
    with _asking(address) as client:
        return [
            (str(job.submission_id), "lost" if is_lost(job, address) else job.status.lower())
            for job in _jobs(client, _run_dir(run))
        ]


@contextlib.contextmanager
def _asking(address: str, what: str = "answer") -> Iterator[Any]:
    """A client of the cluster, whose refusals are one line."""
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        yield JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--address {address}: the cluster does not {what}: {reason}") from None


def _run_dir(run: str) -> str:
    return load_config(run).run_dir if Path(run).is_file() else run


def _followed(client: Any, job: str, address: str) -> int:
    """Follow a job to its end; its exit code."""
    from ray.job_submission import JobStatus

    try:
        details = follow_job(client, job, address)
    except KeyboardInterrupt:
        print(
            f"\nno longer following: {job} goes on; `semievol attach` follows it again, and "
            f"`semievol stop` ends it (--address {address})",
            file=sys.stderr,
        )
        return 130
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        raise SemiEvolError(f"{job} was stopped")
    # The job's own one-line message is in the logs above; its exit code says whose fault it was.
    return details.driver_exit_code or 1


def submission_stem(run_dir: str) -> str:
    """What the submission ids of a run begin with: the same run, the same ids, from anywhere."""
    place = run_dir.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9]+", "-", place.partition("?")[0].rpartition("/")[2]).strip("-")
    return f"semievol-{name[:24] or 'run'}-{digest(place)[:8]}-"


def _attach_or_submit(client: Any, config: Config, name: str, address: str) -> str:
    entrypoint = _entrypoint(config)
    stem = submission_stem(config.run_dir)
    while True:
        jobs = _jobs(client, config.run_dir)
        for found in jobs:
            if _lives(found, address):
                same = "" if found.entrypoint == entrypoint else "; its config is another"
                print(
                    f"{config.run_dir} is run by {found.submission_id} already "
                    f"({found.status.lower()}): following it{same}",
                    file=sys.stderr,
                )
                return str(found.submission_id)
        job = f"{stem}{1 + max(map(_number, jobs), default=0)}"
        metadata = {"run_dir": config.run_dir, "config": name}
        try:
            _submit(client, entrypoint=entrypoint, submission_id=job, metadata=metadata)
        except (RuntimeError, ValueError) as error:
            if "already exists" not in str(error):
                raise
            continue  # another submission was faster: look again
        print(f"submitted {job} to {address}", file=sys.stderr)
        return job


def _jobs(client: Any, run_dir: str) -> list[Any]:
    """The jobs of a run, oldest first."""
    of_this_run = re.compile(re.escape(submission_stem(run_dir)) + r"\d+")
    found = (j for j in client.list_jobs() if of_this_run.fullmatch(j.submission_id or ""))
    return sorted(found, key=_number)


def _lives(job: Any, address: str) -> bool:
    return not job.status.is_terminal() and not is_lost(job, address)


def _number(job: Any) -> int:
    return int(job.submission_id.rpartition("-")[2])


def _entrypoint(config: Config) -> str:
    values = yaml.safe_load(config_yaml(config))
    # On the cluster the job attaches to the cluster it runs on.
    values["ray"]["address"] = None
    encoded = base64.b64encode(yaml.safe_dump(values, sort_keys=False).encode()).decode()
    return _ENTRYPOINT.format(config=encoded)


def _submit(client: Any, **job: Any) -> None:
    """Submit, waiting for the agent of a cluster that has only just started."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(2)
