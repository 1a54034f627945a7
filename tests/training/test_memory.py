"""A training that memory runs out for: tried again as often as asked, and never for ever."""

from __future__ import annotations

import pytest

from semievol_ray import SemiEvolError
from semievol_ray.training import train
from tests.training.conftest import MakeJob

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]


def test_what_to_lower_is_said_after_so_many_tries(
    node_without_memory: None, make_job: MakeJob
) -> None:
    said: list[str] = []
    with pytest.raises(SemiEvolError, match="out of memory: lower training.micro_batch_size"):
        train(make_job(epochs=2000, max_failures=1), on_restart=said.append)
    assert said == ["a worker ran out of memory; on from its checkpoint (1 of 1 times)"]
