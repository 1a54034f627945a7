"""Jobs that are run by nobody any more, by what the cluster says of them and of their nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from ray.util import state
from ray.util.state.exception import RayStateApiException

from semievol_ray.submit import job as job_module
from semievol_ray.submit.lost import JobLostError, is_lost


def details(status: str, **more: Any) -> Any:
    known = {"driver_exit_code": None, "error_type": None, "driver_node_id": "n"} | more
    return SimpleNamespace(status=JobStatus(status), **known)


@pytest.mark.parametrize(
    ("found", "nodes", "lost"),
    [
        (details("FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED"), [], True),
        (details("FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED", driver_exit_code=1), [], False),
        (details("FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE"), [], False),
        (details("SUCCEEDED", driver_exit_code=0), ["DEAD"], False),
        (details("RUNNING"), ["DEAD"], True),
        (details("RUNNING"), ["ALIVE"], False),
        (details("RUNNING"), [], False),
        (details("RUNNING"), RayStateApiException("no answer"), False),
        (details("PENDING", driver_node_id=None), ["DEAD"], False),
    ],
)
def test_a_job_is_lost_with_its_node_and_not_with_its_own_failure(
    monkeypatch, found: Any, nodes: Any, lost: bool
) -> None:
    def list_nodes(address: str, **_: Any) -> list[Any]:
        if isinstance(nodes, Exception):
            raise nodes
        return [SimpleNamespace(state=name) for name in nodes]

    monkeypatch.setattr(state, "list_nodes", list_nodes)
    assert is_lost(found, "http://there") is lost


def test_a_run_that_takes_its_machine_down_each_time_is_submitted_four_times(
    monkeypatch, tmp_path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("run_dir: r\nmodel: {name: m}\ndata: {labeled: l, unlabeled: u}\n")
    tried: list[str] = []

    def lost(*_: Any) -> int:
        tried.append("lost")
        raise JobLostError("it went with its machine")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: None)
    monkeypatch.setattr(job_module, "_attach_or_submit", lambda *_: "job")
    monkeypatch.setattr(job_module, "follow_job", lost)
    with pytest.raises(JobLostError):
        job_module.submit(str(config), (), address="http://there")
    assert len(tried) == 4
