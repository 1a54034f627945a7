"""`semievol render`: a config as Kubernetes objects for KubeRay 1.7, a pure function of both.

A ConfigMap with the config, a RayJob (or a RayCluster to submit to) whose worker groups are sized
by the config's replicas and training workers, and a NetworkPolicy that lets no one in but the
cluster's own pods, its submitter and the operator. Secrets are referred to, never written.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from semievol_ray.config import CLASSIFIERS, Config
from semievol_ray.config_file import config_yaml
from semievol_ray.errors import UserError

SECRETS, PLACE = "semievol-secrets", "/config"
# Of the head: the dashboard, where the operator asks after the job.
_JOB_PORT = 8265
_RAY = "2.60.0"
_USER = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 100,
    "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_ENTRYPOINT = f"python -m semievol_ray.rayjob {PLACE}/semievol.yaml"


@dataclass(frozen=True)
class Cluster:
    """What a config does not say: the machines of a Kubernetes cluster."""

    name: str = "semievol"
    image: str = ""
    # Of one worker's node.
    cpus: int = 8
    memory_gib: int = 64
    gpus: int = 1
    # Workers, where the config leaves their number open.
    most_workers: int = 8
    # Labels of spot nodes, as KEY=VALUE, which are tainted with them too.
    spot: str | None = None
    priority_class: str | None = None
    # Of a volume that all pods mount at /runs: for a run directory in it.
    claim: str | None = None
    # Of a volume that keeps models between jobs.
    model_claim: str | None = None
    redis: str | None = None
    deadline_seconds: int | None = None

    @property
    def config_map(self) -> str:
        """What the config is kept in: each run's own, for its job may begin again."""
        return f"{self.name}-config"

    @property
    def the_image(self) -> str:
        """The image, by default of this version."""
        return self.image or f"semievol-ray:{importlib.metadata.version('semievol-ray')}"


def render(
    config: Config, cluster: Cluster, kind: Literal["rayjob", "raycluster"] = "rayjob"
) -> list[dict[str, Any]]:
    """The objects of a run, in the order in which they are to be applied.

    Raises UserError for a run directory that a new cluster would not find again, a tag that says
    nothing, and spot nodes that are not KEY=VALUE.
    """
    _check(config, cluster)
    spec = _cluster_spec(config, cluster)
    metadata = {"name": cluster.name, "labels": {"app.kubernetes.io/name": "semievol"}}
    if kind == "raycluster":
        found = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": metadata,
            "spec": spec,
        }
    else:
        found = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": metadata,
            "spec": _job_spec(cluster) | {"rayClusterSpec": spec},
        }
    values = yaml.safe_load(config_yaml(config))
    values["ray"]["address"] = None
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": cluster.config_map},
        "data": {"semievol.yaml": yaml.safe_dump(values, sort_keys=False, allow_unicode=True)},
    }
    return [config_map, _network_policy(cluster), found]


def as_yaml(objects: list[dict[str, Any]]) -> str:
    """The objects as one file for `kubectl apply -f`."""
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, allow_unicode=True)


def most_gpus(config: Config, cluster: Cluster) -> int:
    """GPUs that the config can use at once; 0 where it uses none."""
    if not cluster.gpus or config.model.engine in ("openai", "simulated", *CLASSIFIERS):
        return 0
    generation, training = config.generation, config.training
    if generation.gpus_per_replica == 0 and training.gpus_per_worker == 0:
        return 0
    parts = 1 if generation.tensor_parallel == "auto" else generation.tensor_parallel
    each = generation.gpus_per_replica
    if each is None:
        each = float(parts * generation.pipeline_parallel)
    room = cluster.most_workers * cluster.gpus
    replicas = generation.replicas.max
    wanted = [room if replicas == "auto" else math.ceil(replicas * each)]
    for stage in ("warmup", "evolve"):
        workers = config.training_for(stage).workers
        wanted.append(room if workers == "auto" else workers)
    return max(wanted)


def _check(config: Config, cluster: Cluster) -> None:
    inside = cluster.claim is not None and config.run_dir.startswith("/runs/")
    if "://" not in config.run_dir and not inside:
        raise UserError(
            f"run_dir {config.run_dir}: lies on a pod's own disk, and a retry is a new cluster "
            "with nothing on its disks: name an object store (s3://…), or a folder below /runs "
            "with --claim"
        )
    if ":" not in cluster.the_image.rpartition("/")[2] or cluster.the_image.endswith(":latest"):
        raise UserError(f"--image {cluster.the_image}: name a version as its tag, and not `latest`")
    if cluster.spot is not None and cluster.spot.count("=") != 1:
        raise UserError(f"--spot {cluster.spot}: expected KEY=VALUE, the label of the spot nodes")


def _job_spec(cluster: Cluster) -> dict[str, Any]:
    submitter = _container("ray-job-submitter", cluster, {"cpu": "500m", "memory": "512Mi"},
                           {"cpu": "1", "memory": "1Gi"})  # fmt: skip
    spec: dict[str, Any] = {
        "entrypoint": _ENTRYPOINT,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": 3,
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": 5},
        "submitterPodTemplate": {
            "metadata": {"labels": _labels(cluster)},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": _USER,
                "containers": [submitter],
            },
        },
    }
    if cluster.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = cluster.deadline_seconds
    return spec


def _cluster_spec(config: Config, cluster: Cluster) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "rayVersion": _RAY,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "securityContext": _CONTAINER,
            "resources": _resources({"cpu": "500m", "memory": "512Mi"}),
        },
        "authOptions": {"mode": "token"},
        "headGroupSpec": _head(cluster),
        "workerGroupSpecs": list(_workers(config, cluster)),
    }
    if cluster.redis is not None:
        secret = {"secretKeyRef": {"name": "semievol-redis", "key": "password", "optional": True}}
        spec["gcsFaultToleranceOptions"] = {
            "redisAddress": cluster.redis,
            "redisPassword": {"valueFrom": secret},
        }
    return spec


def _head(cluster: Cluster) -> dict[str, Any]:
    """The head schedules and does no work; it is never on a spot node."""
    head = _container("ray-head", cluster, {"cpu": "2", "memory": "8Gi"}, None, nodes=True)
    head["volumeMounts"] += [{"name": "config", "mountPath": PLACE, "readOnly": True}]
    volumes = [{"name": "config", "configMap": {"name": cluster.config_map}}, *_volumes(cluster)]
    pod = _pod(cluster, head, volumes) | {"automountServiceAccountToken": True}
    if cluster.spot is not None:
        key, _, value = cluster.spot.partition("=")
        never = {"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]}
        required = {"nodeSelectorTerms": [never]}
        pod["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    return {"rayStartParams": {"num-cpus": "0"}, "template": _template(cluster, pod)}


def _workers(config: Config, cluster: Cluster) -> Iterator[dict[str, Any]]:
    gpus = most_gpus(config, cluster)
    most = math.ceil(gpus / cluster.gpus) if gpus else _most_cpu_workers(config, cluster)
    resources: dict[str, str] = {"cpu": str(cluster.cpus), "memory": f"{cluster.memory_gib}Gi"}
    if gpus:
        resources["nvidia.com/gpu"] = str(cluster.gpus)
    name = "gpu" if gpus else "cpu"
    worker = _container("ray-worker", cluster, resources, None, nodes=True)
    # NCCL and DeepSpeed exchange tensors through shared memory.
    size = f"{max(1, cluster.memory_gib // 4)}Gi"
    shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}
    worker["volumeMounts"] += [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    pod = _pod(cluster, worker, [shared, *_volumes(cluster)])
    pod["automountServiceAccountToken"] = False
    if gpus:
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    yield _group(name, most, 1, cluster, pod)
    if cluster.spot is not None:
        key, _, value = cluster.spot.partition("=")
        toleration = {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        yield _group(
            f"{name}-spot",
            most,
            0,
            cluster,
            pod
            | {
                "nodeSelector": {key: value},
                "tolerations": [*pod.get("tolerations", []), toleration],
            },
        )


def _most_cpu_workers(config: Config, cluster: Cluster) -> int:
    replicas, each = config.generation.replicas.max, config.generation.cpus_per_replica
    if replicas == "auto" or each == "auto":
        return cluster.most_workers if config.model.is_local else 1
    return max(1, math.ceil(replicas * each / cluster.cpus))


def _group(
    name: str, most: int, fewest: int, cluster: Cluster, pod: dict[str, Any]
) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": fewest,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": _template(cluster, pod),
    }


def _template(cluster: Cluster, pod: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": _labels(cluster)}, "spec": pod}


def _pod(
    cluster: Cluster, container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "securityContext": _USER,
        "containers": [container],
        "volumes": volumes,
    }
    if cluster.priority_class is not None:
        pod["priorityClassName"] = cluster.priority_class
    return pod


def _container(
    name: str,
    cluster: Cluster,
    requests: dict[str, str],
    limits: dict[str, str] | None,
    *,
    nodes: bool = False,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "image": cluster.the_image,
        "securityContext": _CONTAINER,
        "resources": _resources(requests, limits),
    }
    if nodes:
        # Keys and tokens are the nodes' own: the config holds only their names.
        found["envFrom"] = [{"secretRef": {"name": SECRETS, "optional": True}}]
        found["volumeMounts"] = [
            {"name": volume["name"], "mountPath": place} for volume, place in _mounted(cluster)
        ]
        if cluster.model_claim is not None:
            found["env"] = [{"name": "HF_HOME", "value": "/models"}]
    return found


def _resources(requests: dict[str, str], limits: dict[str, str] | None = None) -> dict[str, Any]:
    return {"requests": dict(requests), "limits": dict(limits or requests)}


def _mounted(cluster: Cluster) -> list[tuple[dict[str, Any], str]]:
    """Volumes that head and workers have alike, and where."""
    claims = (("runs", cluster.claim, "/runs"), ("models", cluster.model_claim, "/models"))
    return [
        ({"name": name, "persistentVolumeClaim": {"claimName": claim}}, place)
        for name, claim, place in claims
        if claim is not None
    ]


def _volumes(cluster: Cluster) -> list[dict[str, Any]]:
    return [volume for volume, _ in _mounted(cluster)]


def _labels(cluster: Cluster) -> dict[str, str]:
    return {"semievol/run": cluster.name}


def _network_policy(cluster: Cluster) -> dict[str, Any]:
    """Lets in the run's own pods, on every port, and the operator on the job port; nobody else."""
    mine = {"podSelector": {"matchLabels": _labels(cluster)}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{cluster.name}-closed"},
        "spec": {
            "podSelector": {"matchLabels": _labels(cluster)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [mine]},
                {
                    "from": [operator],
                    "ports": [{"protocol": "TCP", "port": _JOB_PORT}],
                },
            ],
        },
    }


class _Plain(yaml.SafeDumper):
    """Writes every object out: `kubectl` reads anchors, people read them badly."""

    def ignore_aliases(self, data: Any) -> bool:
        """See yaml.Dumper."""
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """A text of several lines as a block."""
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _Plain.represent_text)
