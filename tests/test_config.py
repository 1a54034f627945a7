"""A config is checked whole before anything runs, and says in one line what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from semievol_ray import UserError, load_config
from semievol_ray.config import Config
from semievol_ray.config_file import config_yaml
from tests.conftest import ROOT

MINIMAL = {
    "run_dir": "runs/x",
    "model": {"name": "m"},
    "data": {"labeled": "l.csv", "unlabeled": "u.csv"},
}


def test_defaults_are_the_papers() -> None:
    config = load_config(MINIMAL)
    assert [(c.model, c.shots, c.temperature) for c in config.collaborators] == [
        ("warm", n, 1.0) for n in range(4)
    ]
    assert config.training.lora.rank == 16
    assert config.training.learning_rate == 1e-4
    assert config.training.global_batch_size == 8
    assert config.selection.percentile_of(1) == 50
    assert config.evolve.start == "base" and config.evolve.include_labeled


def test_upstream_preset_lies_under_what_the_user_wrote() -> None:
    config = load_config(MINIMAL | {"preset": "upstream", "selection": {"percentile": 20}})
    assert config.selection.policy == "upstream"
    assert config.selection.percentile_of(1) == 20
    assert config.training_for("evolve").learning_rate == 1e-6
    assert config.training_for("warmup").learning_rate == 1e-4
    assert config.training_for("warmup").held_out == 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "modle: unknown setting; did you mean 'model'?"),
        ({"selection": {"polcy": "paper"}}, "selection.polcy: unknown setting; did you mean"),
        ({"training": {"zero_stage": 7}}, "training.zero_stage: input should be 0, 1, 2 or 3"),
        ({"seed": "many"}, "seed: input should be a valid integer"),
        ({"preset": "papre"}, "unknown preset 'papre'; known: paper, upstream"),
        ({"collaborators": [{"shots": 9}]}, "a collaborator asks for 9 shots, but retrieval.k"),
        ({"collaborators": []}, "at least one collaborator"),
        ({"generation": {"max_tokens": -1}}, "generation.max_tokens: input should be greater"),
        ({"task": {"kind": "text", "day": "2026-13-01"}}, "task.day: month must be in 1..12"),
        (
            {"generation": {"gpus_per_replica": 1, "tensor_parallel": 2, "pipeline_parallel": 2}},
            "gpus_per_replica (1) is less than tensor_parallel x pipeline_parallel (4)",
        ),
        ({"generation": {"gpus_per_replica": 1.5}}, "above 1 it is a whole number"),
        ({"collaborators": [{"n": 2, "temperature": 0}]}, "n (2) samples at temperature 0"),
        (
            {
                "model": {"name": "m", "engine": "simulated"},
                "collaborators": [{"guided": True, "top_k": 3}],
            },
            "the simulated engine has no guided, top_k",
        ),
        (
            {"collaborators": [{"model": "probe", "shots": 1, "guided": True}]},
            "the probe engine has no guided, shots",
        ),
        (
            {"collaborators": [{"model": "base", "guided": True, "thinking_tokens": 9}]},
            "collaborator base-0shot: guided, and 9 thinking_tokens",
        ),
        ({"evolve": {"training": {"lr": 1}}}, "evolve.training: lr: unknown setting"),
        ({"selection": {"percentile": 0}}, "a percentile lies in (0, 100]"),
        ({"training": {"global_batch_size": 3, "workers": 2}}, "is not a multiple of workers"),
        (
            {
                "evolve": {"start": "warm", "training": {"method": "lora"}},
                "training": {"method": "full"},
            },
            "evolve.start: warm: an adapter over a warm model of full weights",
        ),
        (
            {
                "model": {"name": "m", "engine": "vllm"},
                "training": {"lora": {"variant": "dora"}},
            },
            "vllm serves lora and rslora, not dora",
        ),
        ({"generation": {"replicas": {"min": 3, "max": 1}}}, "smaller than replicas.min"),
        (
            {"selection": {"policy": "balanced", "percentile_over": "labeled"}},
            "percentile_over: labeled is of policies that rank by entropy",
        ),
        (
            {"tuning": {"learning_rates": [1e-3]}},
            "training.learning_rate is auto, and it is 0.0001",
        ),
        ({"continues": "runs/one/", "run_dir": "runs/one"}, "a run cannot continue itself"),
        (
            {"continues": "runs/zero", "collaborators": [{"model": "warm-3"}]},
            "warm-3: a run that continues another trains no warm-up",
        ),
        (
            {"models": {"warm-2": {"name": "m"}}},
            "models: warm-2 is the name of a warm-up; choose another",
        ),
        (
            {"collaborators": [{"model": "warm-2", "thinking_tokens": 9}]},
            "what the run trains is asked as it was trained",
        ),
    ],
)
def test_a_mistake_is_one_line(change: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(MINIMAL | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"- a", "a config is a mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def test_overrides_reach_any_depth_and_read_scientific_numbers() -> None:
    config = load_config(MINIMAL, ("training.learning_rate=3e-4", "retrieval.k=5"))
    assert config.training.learning_rate == 3e-4
    assert config.retrieval.k == 5
    with pytest.raises(UserError, match="expected key=value"):
        load_config(MINIMAL, ("selection.policy",))


def test_every_config_survives_its_own_yaml() -> None:
    config = load_config(MINIMAL | {"preset": "upstream"})
    assert Config.model_validate(yaml.safe_load(config_yaml(config))) == config


def test_percentiles_of_rounds() -> None:
    config = load_config(MINIMAL | {"selection": {"percentile": [30, 50]}})
    assert [config.selection.percentile_of(n) for n in (1, 2, 3)] == [30, 50, 50]


def test_samples_of_one_prompt_are_voters_with_names_of_their_own() -> None:
    asked = [{"n": 3, "min_p": 0.1}, {"name": "sure", "temperature": 0.2, "n": 2}]
    config = load_config(MINIMAL | {"collaborators": asked})
    names = ["warm-0shot", "warm-0shot-2", "warm-0shot-3", "sure", "sure-2"]
    assert [c.name for c in config.collaborators] == names
    assert [c.min_p for c in config.collaborators] == [0.1] * 3 + [0.0] * 2


@pytest.mark.parametrize("model", [{"name": "m"}, {"name": "m", "engine": "simulated"}])
def test_collaborators_that_are_written_down_whole_are_read_again(model) -> None:
    asked = [{"n": 2}, {"model": "probe"}]
    config = load_config(MINIMAL | {"model": model, "collaborators": asked})
    again = load_config(config.model_dump(mode="json"))  # as a run keeps it: every field is set
    assert again == config == load_config(yaml.safe_load(config_yaml(config)))


@pytest.mark.parametrize("taught", [False, True])
def test_a_day_is_text_whatever_another_library_taught_yaml(tmp_path, monkeypatch, taught) -> None:
    if taught:  # as vLLM's imports do
        timestamp = "tag:yaml.org,2002:timestamp"
        monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, timestamp, lambda *_: "a day")
    path = tmp_path / "c.yaml"
    path.write_text(config_yaml(load_config(MINIMAL)))
    assert load_config(path, ("task.day=2026-11-25",)).task.day == "2026-11-25"
    with pytest.raises(UserError, match="task.day: month must be in 1..12"):
        load_config(path, ("task.day=2026-13-01",))
    path.write_text(config_yaml(load_config(MINIMAL)) + "run_dir: 2026-11-25\n")
    assert load_config(path).run_dir == "2026-11-25"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch {marker}]",
        "!!python/name:os.system",
        "!mine {{a: 1}}",
    ],
)
def test_a_config_has_no_tags_that_make_objects(tmp_path: Path, text: str) -> None:
    marker = tmp_path / "was-run"
    config = tmp_path / "semievol.yaml"
    config.write_text(f"run_dir: {text.format(marker=marker)}\n")
    with pytest.raises(UserError) as caught:
        load_config(config)
    assert "could not determine a constructor" in str(caught.value) or "tag" in str(caught.value)
    assert not marker.exists()


def test_the_readmes_training_section_is_one_that_is_taken() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (section,) = [b for b in map(yaml.safe_load, blocks) if list(b) == ["training"]]
    assert load_config(MINIMAL | section).training.lora.rank == 16


def test_labels_that_yaml_reads_otherwise_are_to_be_quoted(tmp_path) -> None:
    def labels(written: str) -> object:
        path = tmp_path / "c.yaml"
        path.write_text(
            f"run_dir: r\nmodel: {{name: m}}\ntask: {{kind: label, labels: {written}}}\n"
            "data: {labeled: l.csv, unlabeled: u.csv}\n"
        )
        return load_config(path).task.labels

    assert labels("['0', no way, 'no']") == ("0", "no way", "no")
    for written in ("[yes, no]", "[010, 1]", "[1.0]", "spam"):
        with pytest.raises(UserError, match=r"task\.labels: .*quote them"):
            labels(written)
