"""The Grafana dashboard against the metrics that the replicas and the driver export."""

from __future__ import annotations

import inspect
import json
import re

from semievol_ray.engines import metrics
from tests.conftest import ROOT


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    source = inspect.getsource(metrics)
    exported = set(re.findall(r'(?:gauge|metric)\(\s*(?:\w+, )?"(\w+)"', source))
    assert len(exported) == 9
    dashboard = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    # Ray's prefix, and what Prometheus adds to counters and histograms.
    shown = set(re.findall(r"ray_semievol_(\w+?)(?:_total|_bucket)?\{", " ".join(asked)))
    assert shown == exported


def test_its_panels_lie_beside_and_below_each_other() -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
