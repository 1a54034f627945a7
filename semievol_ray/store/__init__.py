"""The run directory: the only code that writes a run's files."""

from semievol_ray.store.fingerprint import digest, file_fingerprint, flatten
from semievol_ray.store.manifest import Manifest, StageLedger
from semievol_ray.store.run_directory import RunDirectory

__all__ = [
    "Manifest",
    "RunDirectory",
    "StageLedger",
    "digest",
    "file_fingerprint",
    "flatten",
]
