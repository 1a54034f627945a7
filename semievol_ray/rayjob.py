"""What a KubeRay RayJob runs: `python -m semievol_ray.rayjob CONFIG`.

The operator tries a job that FAILED again, on a new cluster, and cannot tell exit codes apart; one
that was STOPPED it leaves alone. So a run that no new cluster can help (exit code 2: a mistake in
the config or the data, a budget that is spent) stops its own job, after saying why.
"""

from __future__ import annotations

import json
import os
import sys
import time

from semievol_ray.cli import main as semievol

_USERS_MISTAKE = 2
# Ray ends a stopped job with SIGTERM, and with SIGKILL 3 seconds later.
_STOP_SECONDS = 30.0


def main(arguments: list[str]) -> int:
    """Run a config; returns the exit code, unless the job is stopped before."""
    code = semievol(["run", *arguments])
    if code == _USERS_MISTAKE:
        _stop_own_job()
    return code


def _stop_own_job() -> None:
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submission = (job.get("metadata") or {}).get("job_submission_id")
    if submission is None:
        return
    from ray.job_submission import JobSubmissionClient

    print("semievol: trying again would not help; this job is stopped", file=sys.stderr, flush=True)
    try:
        JobSubmissionClient().stop_job(submission)
    except Exception as error:  # then the exit code stands, and the operator tries again in vain
        reason = " ".join(str(error).split())
        print(f"semievol: the job cannot be stopped: {reason}", file=sys.stderr, flush=True)
        return
    time.sleep(_STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
