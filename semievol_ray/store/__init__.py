"""The run directory: the only code that writes a run's files."""

from semievol_ray.store.fingerprint import digest, file_fingerprint, flatten, model_fingerprint
from semievol_ray.store.lease import Lease
from semievol_ray.store.manifest import Manifest, StageLedger, check_unchanged
from semievol_ray.store.run_directory import RunDirectory, longer_uri

__all__ = [
    "Lease",
    "Manifest",
    "RunDirectory",
    "StageLedger",
    "check_unchanged",
    "digest",
    "file_fingerprint",
    "flatten",
    "longer_uri",
    "model_fingerprint",
]
