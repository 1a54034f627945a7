"""A tiny Llama with a byte-level tokenizer, and examples for it. No network, no downloads."""

from __future__ import annotations

import base64
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.config import TrainingConfig
from semievol_ray.demo.model import make_llama
from semievol_ray.schema import TRAINING
from semievol_ray.training import Progress, TrainingJob, TrainingResult, train

WORDS = [
    "profit",
    "rose",
    "fell",
    "sharply",
    "quarter",
    "sales",
    "margin",
    "outlook",
    "stable",
    "weak",
    "strong",
    "revenue",
]
LABELS = ("positive", "negative", "neutral")


def build_tiny_model(folder: Path, hidden: int = 64) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<pad>"]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    make_llama(
        len(vocabulary),
        hidden=hidden,
        layers=2,
        heads=4,
        context=512,
        intermediate_size=2 * hidden,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_row(number: int, *, soft: bool) -> dict[str, Any]:
    words = " ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(1, 3 + number % 5))
    row: dict[str, Any] = {
        "example_id": f"example-{number}",
        "prompt": f"Text: {words}\nSentiment:",
        "candidates": [f" {LABELS[number % 3]}"],
        "candidate_weights": [1.0],
        "weight": 1.0,
    }
    if soft and number % 2:
        row["candidates"] = [f" {label}" for label in LABELS]
        row["candidate_weights"] = [0.6, 0.3, 0.1]
        row["weight"] = 0.5
    if soft and number % 4 == 3:
        # The tokenizer's tokens are characters; the end of the text counts half.
        row["token_weights"] = [[1.0] * len(text) + [0.5] for text in row["candidates"]]
    return row


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=TRAINING), path)
    return path


MakeJob = Callable[..., TrainingJob]


class Workers:
    """Training processes that stay up from one job to the next, as torchrun would start them.

    They are given a process group that serves all jobs, as Ray Train gives one, or make their own.
    """

    def __init__(self, size: int, log_folder: Path, group: str = "given") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = Path(__file__).with_name("worker_program.py")
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        common |= {"GROUP": group}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(program)],
                env=os.environ
                | common
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(log_folder / f"worker-{rank}.log").open("wb"),
                text=True,
            )
            for rank in range(size)
        ]

    def ask(self, function: str, *arguments: Any, answering: Sequence[int] | None = None) -> Any:
        """What the workers, or those of the ranks that are answering, say; raises what they raise.

        The answer is the first one's.
        """
        request = base64.b64encode(pickle.dumps((function, arguments))).decode() + "\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(request)
            process.stdin.flush()
        answers = []
        for rank in range(len(self.processes)) if answering is None else answering:
            output = self.processes[rank].stdout
            assert output is not None
            answers.append(pickle.loads(base64.b64decode(output.readline())))
        self.errors = [answer for answer in answers if isinstance(answer, Exception)]
        if self.errors:
            raise self.errors[0]
        return answers[0]

    def train(
        self, job: TrainingJob, copy_at: int | None = None, copy_to: Path | None = None
    ) -> tuple[TrainingResult, list[Progress]]:
        return self.ask("run", job, copy_at, copy_to)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(2, tmp_path_factory.mktemp("workers"))
    yield workers
    workers.close()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_here(job: TrainingJob) -> tuple[TrainingResult, list[Progress]]:
    seen: list[Progress] = []
    return train(job, on="process", on_progress=seen.append), seen


@pytest.fixture
def make_job(tiny_model: Path, soft_examples: Path, tmp_path: Path) -> MakeJob:
    made = 0

    def make(examples: Path = soft_examples, **settings: Any) -> TrainingJob:
        nonlocal made
        made += 1
        fields = {
            name: settings.pop(name)
            for name in ("adapter_from", "seed", "dtype", "base_model", "validation", "scratch_dir")
            if name in settings
        }
        options: dict[str, Any] = {
            "precision": "fp32",
            "learning_rate": 1e-3,
            "epochs": 1,
            "global_batch_size": 8,
            "micro_batch_size": 3,
            "zero_stage": 0,
            "trackers": (),
        }
        defaults: dict[str, Any] = {
            "base_model": str(tiny_model),
            "examples": (examples,),
            "output_dir": tmp_path / f"out-{made}",
            "scratch_dir": tmp_path / f"scratch-{made}",
            "config": TrainingConfig(**(options | settings)),
        }
        return TrainingJob(**(defaults | fields))

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def hard_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    return write_rows(folder / "hard.parquet", [make_row(i, soft=False) for i in range(24)])


@pytest.fixture(scope="session")
def soft_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soft")
    return write_rows(folder / "soft.parquet", [make_row(i, soft=True) for i in range(24)])


@pytest.fixture
def write_examples(tmp_path: Path) -> Callable[[Sequence[dict[str, Any]]], Path]:
    return lambda rows: write_rows(tmp_path / "examples.parquet", rows)
