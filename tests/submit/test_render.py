"""What `semievol render` makes of a config: sizes, places, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import UserError
from semievol_ray.cli import main
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.submit.render import Cluster, as_yaml, render

KEY = "cloud/spot"


def config_of(**sections: Any) -> Config:
    """A config of the least that a run in a bucket needs."""
    values = {
        "run_dir": "s3://bucket/runs/x",
        "model": {"name": "org/model", "engine": "vllm"},
        "task": {"kind": "label"},
        "data": {"labeled": "s3://bucket/l.csv", "unlabeled": "s3://bucket/u/*.parquet"},
    }
    return load_config(values | sections)


def groups(config: Config, cluster: Cluster) -> dict[str, dict[str, Any]]:
    found = render(config, cluster)[-1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return {group["groupName"]: group for group in found}


def resources(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize(
    ("sections", "cluster", "name", "most"),
    [
        ({}, Cluster(most_workers=5), "gpu", 5),
        ({"generation": {"replicas": {"max": 16}}, "training": {"workers": 1}}, Cluster(gpus=8),
         "gpu", 2),
        ({"generation": {"replicas": {"max": 6}, "tensor_parallel": 4},
          "training": {"workers": 8}}, Cluster(gpus=8), "gpu", 3),
        ({"generation": {"replicas": {"max": 1}}, "training": {"workers": 16,
          "global_batch_size": 16}}, Cluster(gpus=8), "gpu", 2),
        ({"generation": {"replicas": {"max": 9}, "cpus_per_replica": 4}}, Cluster(gpus=0),
         "cpu", 5),
        ({}, Cluster(gpus=0, most_workers=3), "cpu", 3),
        ({"model": {"name": "gpt", "engine": "openai", "base_url": "https://h/v1"}}, Cluster(),
         "cpu", 1),
    ],
)  # fmt: skip
def test_workers_are_as_many_as_the_config_can_use(sections, cluster, name: str, most: int) -> None:
    (group,) = groups(config_of(**sections), cluster).values()
    found = (group["groupName"], group["minReplicas"], group["maxReplicas"])
    assert found == (name, 1, most)
    gpus = resources(group).get("nvidia.com/gpu")
    assert gpus == (str(cluster.gpus) if name == "gpu" else None)


def test_spot_nodes_take_workers_and_never_the_head() -> None:
    cluster = Cluster(spot=f"{KEY}=true", priority_class="batch")
    found = groups(config_of(), cluster)
    assert list(found) == ["gpu", "gpu-spot"]
    spot = found["gpu-spot"]["template"]["spec"]
    assert found["gpu-spot"]["minReplicas"] == 0 and spot["nodeSelector"] == {KEY: "true"}
    assert any(t["key"] == KEY for t in spot["tolerations"])
    assert all(g["template"]["spec"]["priorityClassName"] == "batch" for g in found.values())
    job = render(config_of(), cluster)[-1]["spec"]["rayClusterSpec"]["headGroupSpec"]
    terms = job["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": KEY, "operator": "NotIn", "values": ["true"]}]}]


def test_every_volume_that_is_mounted_is_there_and_requests_keep_to_limits() -> None:
    cluster = Cluster(claim="runs", model_claim="models", spot="a=b")
    spec = render(config_of(run_dir="/runs/x"), cluster)[-1]["spec"]
    nodes = spec["rayClusterSpec"]
    pods = [spec["submitterPodTemplate"]["spec"], nodes["headGroupSpec"]["template"]["spec"],
            *(g["template"]["spec"] for g in nodes["workerGroupSpecs"])]  # fmt: skip
    for pod in pods:
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            mounts = container.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= volumes
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
            found = container["resources"]
            assert set(found["requests"]) == set(found["limits"])
            gpu = "nvidia.com/gpu"
            assert found["requests"].get(gpu) == found["limits"].get(gpu)
    names = {v["name"] for v in pods[1]["volumes"]}
    assert names == {"config", "runs", "models"}


def test_nobody_but_its_own_pods_and_the_operator_reaches_the_cluster() -> None:
    objects = render(config_of(), Cluster())
    (policy,) = [o for o in objects if o["kind"] == "NetworkPolicy"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    spec = objects[-1]["spec"]
    templates = [spec["submitterPodTemplate"], spec["rayClusterSpec"]["headGroupSpec"]["template"],
                 *(g["template"] for g in spec["rayClusterSpec"]["workerGroupSpecs"])]  # fmt: skip
    assert all(t["metadata"]["labels"] == labels for t in templates)
    mine, operator = policy["spec"]["ingress"]
    assert mine == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert [p["port"] for p in operator["ports"]] == [8265]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_the_config_travels_and_secrets_do_not(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush4711hush4711")
    config = config_of(ray={"address": "somewhere:6379"})
    text = as_yaml(render(config, Cluster(redis="redis:6379")))
    assert "hush4711" not in text and "&id" not in text
    (kept, _, job) = yaml.safe_load_all(text)
    values = yaml.safe_load(kept["data"]["semievol.yaml"])
    assert values["ray"]["address"] is None and values["run_dir"] == config.run_dir
    assert load_config(values).model_dump() == config_of().model_dump()
    fault_tolerance = job["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"]
    assert fault_tolerance["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "password"


def test_each_run_has_a_config_of_its_own_which_its_head_reads() -> None:
    config_map, _, job = render(config_of(), Cluster(name="march"))
    assert config_map["metadata"]["name"] == "march-config"
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
    assert volume["configMap"]["name"] == "march-config"


def test_the_same_config_is_the_same_text() -> None:
    first, second = (as_yaml(render(config_of(), Cluster())) for _ in range(2))
    assert first == second


def test_a_cluster_to_submit_to_is_the_same_without_the_job() -> None:
    job, cluster = (render(config_of(), Cluster(), kind)[-1] for kind in ("rayjob", "raycluster"))
    assert cluster["kind"] == "RayCluster"
    assert cluster["spec"] == job["spec"]["rayClusterSpec"]


@pytest.mark.parametrize(
    ("sections", "cluster", "message"),
    [
        ({"run_dir": "runs/x"}, Cluster(), "lies on a pod's own disk"),
        ({"run_dir": "/runs/x"}, Cluster(), "lies on a pod's own disk"),
        ({"run_dir": "/elsewhere/x"}, Cluster(claim="runs"), "lies on a pod's own disk"),
        ({}, Cluster(image="registry:5000/semievol"), "name a version as its tag"),
        ({}, Cluster(image="semievol:latest"), "name a version as its tag"),
        ({}, Cluster(spot="spot"), "expected KEY=VALUE"),
    ],
)
def test_what_would_lose_work_or_say_nothing_is_refused(sections, cluster, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        render(config_of(**sections), cluster)
    assert "\n" not in str(caught.value)


def test_the_command_writes_a_new_file(tmp_path: Path, capsys) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "job.yaml"
    values = config_of().model_dump(mode="json", exclude_defaults=True)
    config.write_text(yaml.safe_dump(values))
    command = ["render", str(config), "--gpus", "8", "--spot", "a=b", "--output", str(out)]
    assert main(command) == 0
    kinds = [o["kind"] for o in yaml.safe_load_all(out.read_text())]
    assert kinds == ["ConfigMap", "NetworkPolicy", "RayJob"]
    assert main(command) == 2 and "there is a file already" in capsys.readouterr().err
    assert main(["render", str(config), "--kind", "raycluster"]) == 0
    assert "kind: RayCluster" in capsys.readouterr().out
