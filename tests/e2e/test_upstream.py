"""The preset `upstream` with all weights trained: its evolution goes on from the warm model."""

from __future__ import annotations

import pytest
import yaml

from semievol_ray.results import Run
from tests.e2e.conftest import finish, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_evolution_that_learns_nothing_is_the_warm_model(tmp_path) -> None:
    config = write_run(tmp_path)
    values = yaml.safe_load(config.read_text()) | {"preset": "upstream"}
    # Of these the preset has its own.
    for section in ("retrieval", "collaborators", "justify", "selection"):
        del values[section]
    values["training"] |= {"method": "full", "epochs": 20, "workers": 1}
    # Replicas on every CPU, and shards enough that selection runs as Ray tasks: it needs theirs.
    values["ray"] = {"num_cpus": 2}
    values["generation"]["replicas"] = {"min": 2, "max": 2}
    values["data"]["shard_rows"] = 15
    values["evolve"] = {"training": {"learning_rate": 1e-12, "epochs": 1}}
    config.write_text(yaml.safe_dump(values))
    finish(config)
    run = Run(str(tmp_path / "run"))
    assert run.config().evolve.start == "warm" and not run.config().evolve.include_labeled
    answers = {m: run.predictions(m)["answer"].to_pylist() for m in ("vanilla", "SFT", "SemiEvol")}
    assert answers["SemiEvol"] == answers["SFT"] != answers["vanilla"]
    reasons = set(run.selection()["reason"].to_pylist())
    assert "selected" in reasons and reasons <= {
        "selected", "above_threshold", "unparsed", "unjustified", "no_response",
    }  # fmt: skip
