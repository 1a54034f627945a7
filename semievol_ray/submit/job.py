"""`semievol submit`: the same config as a Ray job, its logs streamed, its exit code passed on.

Only the config travels. Data, models and the run directory are named by paths or URIs that the
cluster can read: `ray job submit` copies no corpus. A token (RAY_AUTH_TOKEN, or the file that
RAY_AUTH_TOKEN_PATH names) is read by Ray's own client and appears nowhere here.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from semievol_ray.config_file import config_yaml, load_config
from semievol_ray.errors import SemiEvolError, UserError

_AGENT_SECONDS = 60.0

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

    Without `follow` it returns 0 as soon as the job is accepted. Raises UserError where no
    cluster answers or the token is refused.
    """
    from ray.exceptions import RayError
    from ray.job_submission import JobStatus, JobSubmissionClient

    config = load_config(config_path, overrides)
    # On the cluster the job attaches to the cluster it runs on.
    values = yaml.safe_load(config_yaml(config))
    values["ray"]["address"] = None
    encoded = base64.b64encode(yaml.safe_dump(values, sort_keys=False).encode()).decode()
    try:
        client = JobSubmissionClient(address)
        job = _submit(
            client,
            entrypoint=_ENTRYPOINT.format(config=encoded),
            runtime_env={"env_vars": config.ray.runtime_env.get("env_vars", {})},
            metadata={"run_dir": config.run_dir, "config": Path(config_path).name},
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--address {address}: the cluster does not take the job: {reason}") from (
            None
        )
    print(f"submitted {job} to {address}", file=sys.stderr)
    if not follow:
        return 0
    asyncio.run(_stream(client, job))
    details = client.get_job_info(job)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        raise SemiEvolError(f"{job} was stopped")
    # The job's own one-line message is in the logs above; its exit code says whose fault it was.
    return details.driver_exit_code or 1


def _submit(client: Any, **job: Any) -> str:
    """Submit, waiting for the agent of a cluster that has only just started."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            found: str = client.submit_job(**job)
            return found
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(2)


async def _stream(client: object, job: str) -> None:
    async for lines in client.tail_job_logs(job):  # type: ignore[attr-defined]
        print(lines, end="", flush=True)
