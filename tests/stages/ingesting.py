"""Ingest alone, for tests of what it makes of files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import load_config, pipeline
from semievol_ray.progress import Silent
from semievol_ray.results import Run
from semievol_ray.schema import EXAMPLE
from semievol_ray.stages.context import Context
from semievol_ray.store import StageLedger


def ingest(tmp_path: Path, labeled, unlabeled, test=None, **sections) -> Run:
    """Run ingest on some files.

    Keywords are settings of `data`, or `task`, `run_dir`, `redo`, `progress`, `collaborators`,
    `continues`, `generation`, `selection`, `evaluation`, `evolve`, `training`, `iteration`.
    """
    redo, progress = sections.pop("redo", None), sections.pop("progress", None)
    above = (
        "collaborators", "continues", "generation", "selection", "evaluation", "evolve", "training",
        "iteration",
    )  # fmt: skip
    others = {k: sections.pop(k) for k in above if k in sections}
    config = load_config(
        {
            "run_dir": sections.pop("run_dir", str(tmp_path / "run")),
            "model": {"name": "unused"},
            "task": sections.pop("task", {"kind": "label"}),
            **others,
            "data": {
                "labeled": named(labeled),
                "unlabeled": named(unlabeled),
                **({"test": named(test)} if test else {}),
                "columns": sections.pop("columns", {"question": "text", "answer": "label"}),
                **sections,
            },
        }
    )
    return Run(pipeline.run(config, until="ingest", redo=redo, progress=progress).uri)


class Heard(Silent):
    """What a run says, in lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, stage: str, line: str) -> None:
        self.lines.append(line)


def labels(ids: Sequence[str], answers: Sequence[str]) -> pa.Table:
    """Labelled examples, each with a question of its own."""
    pairs = zip(ids, answers, strict=True)
    rows = [{"example_id": i, "question": f"question {i}", "answer": a} for i, a in pairs]
    return pa.Table.from_pylist(rows, schema=EXAMPLE)


def named(locations: object) -> str | list[str]:
    return [str(x) for x in locations] if isinstance(locations, list) else str(locations)


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, *rows: object) -> Path:
    """Rows as objects, or as the bytes of a line."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def ingested(folder: Path, values: Mapping[str, Any], labeled: str, unlabeled: str) -> Context:
    """A run of label examples (`id,question,answer` as CSV) up to ingest.

    `values` are what the config has besides its data, whose own settings are under `data`.
    """
    (folder / "labeled.csv").write_text(labeled)
    (folder / "unlabeled.csv").write_text(unlabeled)
    data = {
        "labeled": str(folder / "labeled.csv"),
        "unlabeled": str(folder / "unlabeled.csv"),
        "columns": {"id": "id"},
    }
    config = load_config(
        {"run_dir": str(folder / "run"), "task": {"kind": "label"}}
        | {**values, "data": data | values.get("data", {})}
    )
    directory = pipeline.run(config, until="ingest")
    return Context(config, directory, StageLedger(directory))
