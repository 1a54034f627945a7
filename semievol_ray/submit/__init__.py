"""Submission of a run to a Ray cluster as a job."""

from semievol_ray.submit.job import submit

__all__ = ["submit"]
