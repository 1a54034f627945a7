"""Jobs that went with the machine they ran on: neither ended nor failed, and run by nobody.

A head that lives on sees the loss and calls the job failed. One that was started again (with what
it knew in a Redis) does not look: there the job "runs" for ever, on a node that is dead.
"""

from __future__ import annotations

from typing import Any

from semievol_ray.errors import SemiEvolError

# What Ray calls the loss of the actor that had started the job's process.
_ACTOR_LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_FAILURE")


class JobLostError(SemiEvolError):
    """A job went with the machine it ran on, or with all that the cluster knew."""


def is_lost(details: Any, address: str) -> bool:
    """Whether a job (Ray's JobDetails) of the cluster at an address is one of these."""
    if details.status.is_terminal():
        # Of a process that ended, however badly, there is an exit code.
        failed = details.status == "FAILED" and details.driver_exit_code is None
        return bool(failed and details.error_type in _ACTOR_LOST)
    return details.driver_node_id is not None and _is_dead(details.driver_node_id, address)


def _is_dead(node: str, address: str) -> bool:
    from ray.exceptions import AuthenticationError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        # It calls what the filter leaves out missing.
        found = list_nodes(address, filters=[("node_id", "=", node)], raise_on_missing_output=False)
    except (RayStateApiException, AuthenticationError):
        return False  # who cannot ask does not know
    return [state.state for state in found] == ["DEAD"]
