"""Policies by their names in a config. A new one is a file of this folder and a line here."""

from __future__ import annotations

from semievol_ray.selection.policies.agreement import Agreement
from semievol_ray.selection.policies.balanced import Balanced
from semievol_ray.selection.policies.controls import Oracle, Random
from semievol_ray.selection.policies.paper import Paper
from semievol_ray.selection.policies.policy import Calibration, Facts, Policy
from semievol_ray.selection.policies.risk import Risk
from semievol_ray.selection.policies.stacked import Stacked
from semievol_ray.selection.policies.upstream import Upstream

POLICIES: dict[str, type[Policy]] = {
    "paper": Paper,
    "upstream": Upstream,
    "balanced": Balanced,
    "stacked": Stacked,
    "agreement": Agreement,
    "risk": Risk,
    "random": Random,
    "oracle": Oracle,
}

__all__ = [
    "POLICIES",
    "Agreement",
    "Balanced",
    "Calibration",
    "Facts",
    "Oracle",
    "Paper",
    "Policy",
    "Random",
    "Risk",
    "Stacked",
    "Upstream",
]
