"""Models as they are found and loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from semievol_ray import UserError
from semievol_ray.model_files import load_tokenizer, positions
from tests.tasks.chat_models import make_tokenizer

PROGRAM = """
import sys
from semievol_ray.model_files import import_transformers
import_transformers()
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(sorted({"sklearn", "scipy"} & sys.modules.keys()))
from transformers.utils import is_sklearn_available
print(is_sklearn_available())
"""


@pytest.mark.e2e
def test_a_worker_loads_a_model_without_what_it_does_not_need(tiny_model) -> None:
    """In a process of its own: this one has imported everything."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model)], capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"], done.stdout + done.stderr


def test_a_command_starts_without_what_only_its_stages_need() -> None:
    heavy = "{'scipy', 'sklearn', 'torch', 'transformers', 'ray', 'pandas'}"
    program = f"import sys, semievol_ray.pipeline; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "facts", "found"),
    [
        ("GPT2", {"n_positions": 64}, 64),
        ("Llama", {"max_position_embeddings": 64}, 64),
        ("Mpt", {"max_seq_len": 64}, 64),
        ("Gemma3", {"text_config": {"max_position_embeddings": 64}}, 64),
        ("Bloom", {}, None),
        ("Mamba", {}, None),
        ("XLNet", {}, None),
        # Scaled: the number is the one after it, but for YaRN as Qwen's cards give it.
        ("Llama", {"max_position_embeddings": 131072, "rope_parameters": {
            "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}}, 131072),
        ("Qwen2", {"max_position_embeddings": 32768, "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
            "rope_theta": 1e6}}, 131072),
    ],
)  # fmt: skip
def test_how_many_positions_a_model_has(kind: str, facts: dict, found: int | None) -> None:
    import transformers

    assert positions(getattr(transformers, f"{kind}Config")(**facts)) == found


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    from semievol_ray.training import models

    folder, marker = tmp_path / "model", tmp_path / "was-run"
    folder.mkdir()
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    for name in ("configuration_mine", "modeling_mine", "tokenization_mine"):
        (folder / f"{name}.py").write_text(code + "class Mine: pass\n")
    auto_map = {
        "AutoConfig": "configuration_mine.Mine",
        "AutoModelForCausalLM": "modeling_mine.Mine",
        "AutoTokenizer": ["tokenization_mine.Mine", None],
    }
    facts = {"model_type": "mine", "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    for load in (
        lambda: models.load_config(str(folder)),
        lambda: models.load_model(str(folder), "auto"),
        lambda: load_tokenizer(str(folder)),
    ):
        with pytest.raises(UserError) as caught:
            load()
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_mistral_models_keep_their_chat_template(tmp_path: Path) -> None:
    # Beside vLLM, whose mistral_common reads tekken.json, and knows of no template.
    folder = tmp_path / "ministral"
    make_tokenizer("mistral-v0.3").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    (folder / "tekken.json").write_text("{}")
    assert "[INST]" in load_tokenizer(str(folder)).chat_template
