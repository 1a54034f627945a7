"""The KubeRay manifest against the operator's own schema."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import tomllib
from functools import cache
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


OVERLAYS = sorted(path.name for path in (ROOT / "cluster" / "overlays").iterdir())


@pytest.fixture(scope="module", params=["cluster/base", *OVERLAYS, *RENDERED])
def manifest(request) -> dict:
    """Each RayJob of ours: the one that is written by hand, its overlays, and what is rendered."""
    if request.param in RENDERED:
        return render(config_of(), RENDERED[request.param])[-1]
    if request.param in OVERLAYS:
        return overlay(request.param)["RayJob"]
    return yaml.safe_load((ROOT / "cluster" / "base" / "rayjob.yaml").read_text())


@cache
def overlay(name: str) -> dict[str, dict]:
    """What `kubectl kustomize` makes of an overlay, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here (Debian: kubernetes-client)")
    folder = str(ROOT / "cluster" / "overlays" / name)
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return {found["kind"]: found for found in yaml.safe_load_all(made.stdout)}


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


def test_what_a_pod_asks_for_it_may_have_and_what_it_mounts_is_there(manifest) -> None:
    spec = manifest["spec"]
    # SidecarMode would leave `submitterPodTemplate` out of account.
    assert spec["submissionMode"] == "K8sJobMode"
    names = [group["groupName"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
    assert len(set(names)) == len(names)
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(manifest):
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            asked, most = (container["resources"][k] for k in ("requests", "limits"))
            assert asked.keys() == most.keys()
            assert all(amount(asked[key]) <= amount(most[key]) for key in asked)
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= volumes
            assert not container["image"].endswith(":latest") and ":" in container["image"]


def amount(quantity: str) -> float:
    """A quantity of Kubernetes as a number."""
    for suffix, factor in (("Gi", 2**30), ("Mi", 2**20), ("m", 1e-3)):
        if quantity.endswith(suffix):
            return float(quantity.removesuffix(suffix)) * factor
    return float(quantity)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_closed_as_the_base_is(name) -> None:
    policy = overlay(name)["NetworkPolicy"]["spec"]
    assert policy == render(config_of(), Cluster())[1]["spec"]
    labels = policy["podSelector"]["matchLabels"]
    job = overlay(name)["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [job["submitterPodTemplate"], *(group["template"] for group in groups)]
    assert all(template["metadata"]["labels"] == labels for template in templates)


def test_the_head_is_never_on_a_node_that_may_be_taken_away() -> None:
    cluster = overlay("gpu-spot")["RayJob"]["spec"]["rayClusterSpec"]
    (selector,) = [
        group["template"]["spec"]["nodeSelector"]
        for group in cluster["workerGroupSpecs"]
        if group["groupName"] == "gpu-spot"
    ]
    affinity = cluster["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    never = [e for term in terms for e in term["matchExpressions"] if e["operator"] == "NotIn"]
    assert {e["key"]: e["values"] for e in never} == {k: [v] for k, v in selector.items()}


def test_rays_launcher_takes_the_cluster_of_machines() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster" / "vms.yaml").read_text())
    validate_config(prepare_config(config))
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in c for c in starts if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in starts[1]


def test_the_images_are_small_and_not_roots() -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    stages: dict[str, list[list[str]]] = {}
    for step in steps:
        if step[0] == "FROM":
            image, _, name = step[1].split()
            assert image.rpartition(":")[2] not in ("", "latest"), image
            stages[name] = []
        else:
            stages[name].append(step)
    assert list(stages) == ["wheel", "cpu", "gpu"]  # the last is what is built by default
    for name in ("cpu", "gpu"):
        *_, last = [user for word, user in stages[name] if word == "USER"]
        assert last == "1000:100"
        copied = [what for word, what in stages[name] if word == "COPY"]
        assert sum("--from=wheel" in what for what in copied) == 1
        # The wheel comes last, so that all that is large stays in the layers before it.
        assert "--from=wheel" in copied[-1]
    assert not any("cargo" in text or "rust" in text for _, text in stages["gpu"])


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
    on_cpus = overlay("cpu-dev")["RayJob"] if shutil.which("kubectl") else None
    rendered = render(config_of(), Cluster())[-1]
    machines = yaml.safe_load((ROOT / "cluster" / "vms.yaml").read_text())
    assert machines["docker"]["image"] == f"semievol-ray:{version}"
    of_manifests = [(by_hand, version), (rendered, installed())]
    of_manifests += [(on_cpus, f"{version}-cpu")] if on_cpus else []
    for manifest, of in of_manifests:
        images = {c["image"] for pod in pods(manifest) for c in pod["containers"]}
        assert images == {f"semievol-ray:{of}"}
    for name in ("Dockerfile", "README.md"):
        assert (
            f"docker build -f cluster/Dockerfile -t semievol-ray:{version} ."
            in (ROOT / "cluster" / name).read_text()
        )
