"""What a run will take, before it is begun: a probe of the real engine, and arithmetic."""

from semievol_ray.planning.command import Asked, plan, plan_lines
from semievol_ray.planning.estimate import Line, Plan, Size, estimate
from semievol_ray.planning.probe import Measured, probe

__all__ = ["Asked", "Line", "Measured", "Plan", "Size", "estimate", "plan", "plan_lines", "probe"]
