"""Submission of a run to a Ray cluster, and KubeRay manifests as functions of the config."""

from semievol_ray.submit.job import submit

__all__ = ["submit"]
