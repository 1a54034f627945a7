"""Submission of a run to a Ray cluster as a job."""

from semievol_ray.submit.job import attach, states, stop, submit

__all__ = ["attach", "states", "stop", "submit"]
