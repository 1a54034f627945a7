"""The KubeRay manifest against the operator's own schema."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest() -> dict:
    return yaml.safe_load((ROOT / "cluster" / "base" / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def schema(real_data) -> dict:
    crd = yaml.safe_load((real_data / "kuberay-crds" / "ray.io_rayjobs.yaml").read_text())
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: dict) -> dict:
    """The schema with unknown fields refused, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)
    return schema


def test_the_manifest_is_valid_against_kuberay(manifest, schema) -> None:
    # The API server's own part of every object.
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(manifest, schema)


def test_a_misspelt_field_would_be_refused(manifest, schema) -> None:
    broken = manifest | {"spec": manifest["spec"] | {"entryPoint": "x"}}
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        jsonschema.validate(broken, schema)


def test_no_pod_is_root_and_the_cluster_wants_a_token(manifest) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
