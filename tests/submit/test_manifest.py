"""The KubeRay manifest against the operator's own schema."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from semievol_ray.submit.render import Cluster, render
from tests.conftest import ROOT, WHOLE
from tests.submit.test_render import config_of

KEPT_FIELDS = Path(__file__).with_name("rayjob_fields.yaml")
WHOLE_DEFINITION = WHOLE / "kuberay-crds" / "ray.io_rayjobs.yaml"


RENDERED = {
    "rendered": Cluster(),
    "rendered, all of it": Cluster(
        spot="cloud/spot=true", claim="runs", model_claim="models", redis="redis:6379",
        deadline_seconds=3600, priority_class="batch",
    ),
    "rendered, without GPUs": Cluster(gpus=0),
}  # fmt: skip


@pytest.fixture(scope="module", params=["cluster/base", *RENDERED])
def manifest(request) -> dict:
    """Each RayJob of ours: the one that is written by hand, and what is rendered."""
    if request.param in RENDERED:
        return render(config_of(), RENDERED[request.param])[-1]
    return yaml.safe_load((ROOT / "cluster" / "base" / "rayjob.yaml").read_text())


@pytest.fixture(
    scope="module",
    params=["the fields that it has", *["all of it"] * WHOLE_DEFINITION.is_file()],
)
def schema(request) -> dict:
    """What is kept here of the operator's definition; and all of it, where that is at hand."""
    if request.param == "the fields that it has":
        return closed(yaml.safe_load(KEPT_FIELDS.read_text()))
    crd = yaml.load(WHOLE_DEFINITION.read_text(), yaml.CSafeLoader)  # it has 1.4 MB
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
    jsonschema.Draft202012Validator(schema).validate(manifest)


def test_a_misspelt_field_would_be_refused(manifest, schema) -> None:
    broken = manifest | {"spec": manifest["spec"] | {"entryPoint": "x"}}
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_no_pod_is_root_and_the_cluster_wants_a_token(manifest) -> None:
    assert manifest["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_a_restricted_namespace_takes_every_container(manifest) -> None:
    """The Pod Security Standard `restricted`, of the pods here and of what the operator adds.

    Into the head's pod it puts the autoscaler; into a worker's an init container that has the
    worker container's own security context.
    """
    autoscaler = manifest["spec"]["rayClusterSpec"]["autoscalerOptions"]
    contexts = [autoscaler["securityContext"]]
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {key for volume in pod.get("volumes", ()) for key in volume} - {"name"}
        assert kinds <= {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}
        containers = [*pod["containers"], *pod.get("initContainers", ())]
        contexts += [container["securityContext"] for container in containers]
    assert len(contexts) == 1 + len(pods(manifest)), "the autoscaler, and a container of each pod"
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert not context.get("privileged")


def test_only_what_a_new_cluster_can_help_is_tried_again(manifest) -> None:
    """The operator tries a FAILED job `backoffLimit` times again, and a STOPPED one never.

    That the entry point stops its own job is shown in test_submit.py, on Ray.
    """
    spec = manifest["spec"]
    assert spec["entrypoint"].startswith("python -m semievol_ray.rayjob ")
    assert spec["backoffLimit"] > 0
    # A deletion strategy has no rule for a stopped job: its cluster would stay.
    assert spec["shutdownAfterJobFinishes"] and "deletionStrategy" not in spec
    # The submitter's own command follows the job of this id; another would submit it twice.
    assert not spec["submitterPodTemplate"]["spec"]["containers"][0].keys() & {"command", "args"}


def test_secrets_are_the_nodes_own(manifest) -> None:
    submitter, *nodes = pods(manifest)
    for pod in nodes:
        assert pod["containers"][0]["envFrom"][0]["secretRef"]["optional"] is True
    assert "envFrom" not in submitter["containers"][0]
    assert "runtimeEnvYAML" not in manifest["spec"]


def pods(manifest: dict) -> list[dict]:
    """The pod specs of submitter, head and workers."""
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        manifest["spec"]["submitterPodTemplate"]["spec"],
        *(group["template"]["spec"] for group in groups),
    ]


def installed() -> str:
    """What is rendered has the version that is installed, which may be an older build."""
    return importlib.metadata.version("semievol-ray")


def test_the_image_is_of_this_version() -> None:
    cargo = tomllib.loads((ROOT / "rust_ext" / "Cargo.toml").read_text())
    version = cargo["package"]["version"]
    by_hand = yaml.safe_load((ROOT / "cluster" / "base" / "rayjob.yaml").read_text())
    rendered = render(config_of(), Cluster())[-1]
    for manifest, of in ((by_hand, version), (rendered, installed())):
        images = {c["image"] for pod in pods(manifest) for c in pod["containers"]}
        assert images == {f"semievol-ray:{of}"}
    for name in ("Dockerfile", "README.md"):
        assert (
            f"docker build -f cluster/Dockerfile -t semievol-ray:{version} ."
            in (ROOT / "cluster" / name).read_text()
        )
