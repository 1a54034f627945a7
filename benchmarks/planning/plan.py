"""What `semievol plan` says of a run, against what that run then takes, stage by stage.

The run is the demo: two trainings, four voters over 1,440 rows, five models over 600 test rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.common.report import Row, arguments, report, row
from semievol_ray import pipeline
from semievol_ray.demo import demo_config, write_demo_data
from semievol_ray.planning import Asked, plan
from semievol_ray.progress import Silent
from semievol_ray.ray_session import disconnect
from semievol_ray.results import Run


def main() -> None:
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        write_demo_data(Path(folder) / "data", 0)
        config = demo_config(folder, 0)
        planned, _, _ = plan(config, Asked(probe_rows=64), Silent())
        disconnect()
        run = Run(pipeline.run(config).uri)
        taken = {m.stage: m.seconds for m in run.manifests}
    expected = {line.stage: line.seconds for line in planned.lines}
    rows: list[Row] = [
        row(f"planned: {stage}", seconds, taken[stage], "the run", unit="s", goal=None)
        for stage, seconds in expected.items()
        if taken.get(stage, 0) > 1
    ]
    together = sum(taken.values())
    rows.append(
        row("planned: all of it", planned.seconds, together, "the run", unit="s", goal=None)
    )
    report(rows, repeats=1, packages=("ray", "torch", "deepspeed"), json_path=args.json)


if __name__ == "__main__":
    main()
