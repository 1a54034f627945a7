"""Models as they are found and loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
