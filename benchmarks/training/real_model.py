"""A LoRA step of SmolLM2-135M-Instruct on one CPU thread, against a bare peft loop.

The demo's messages, eight of them a step, base and adapter in bfloat16. The bare loop pads each
batch to its longest row, computes the logits of every place, and is torch's AdamW beside
transformers and peft as they come. The second peer is our own loop with attention in bfloat16:
torch's backward of it is slow for short rows.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.accuracy.smollm2 import smollm2
from benchmarks.common.report import arguments, report, row
from benchmarks.training.sides import Ours, take_turns
from semievol_ray.config import TrainingConfig
from semievol_ray.demo.messages import write_messages
from semievol_ray.schema import TRAINING
from semievol_ray.training import TrainingJob, attention
from semievol_ray.training.world import joined

_BATCH, _REPEATS, _EXAMPLES = 8, 11, 512
_LONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
         "MASTER_PORT": "29531", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # fmt: skip


def main() -> None:
    args = arguments(__doc__)
    os.environ |= _LONE
    torch.set_num_threads(1)
    base = smollm2()
    texts = [(f"{m.text}\nTeam:", f" {m.team}") for m in write_messages(_EXAMPLES, 0)]
    with tempfile.TemporaryDirectory() as name, joined(Path(name) / "log", 600) as world:
        folder = Path(name)
        _write(folder / "examples.parquet", texts)
        sides = {name: Ours(_job(base, folder, name), world) for name in ("ours", "in 16 bits")}
        bare = _Bare(base, texts)
        short = attention._SHORT

        def run(side: str, most: int) -> None:
            attention._SHORT = most
            sides[side].run(1)

        seconds = take_turns(
            {
                "ours": lambda _: run("ours", short),
                "in 16 bits": lambda _: run("in 16 bits", 0),
                "bare": lambda _: bare.step(),
            },
            world,
            _REPEATS,
        )
    speed = {side: _BATCH / s for side, s in seconds.items()}
    claim = "LoRA, SmolLM2-135M-Instruct, bfloat16, one CPU thread"
    peers = {"bare": "transformers, peft and AdamW, padded", "in 16 bits": "attention in bfloat16"}
    report(
        [
            row(claim, speed["ours"], speed[side], peer, unit="examples/s")
            for side, peer in peers.items()
        ],
        repeats=_REPEATS,
        packages=("torch", "transformers", "peft", "deepspeed"),
        json_path=args.json,
    )


class _Bare:
    """What a script without a trainer would do."""

    def __init__(self, base: Path, texts: list[tuple[str, str]]) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.texts, self.at = texts, 0
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self.model = get_peft_model(model, lora, autocast_adapter_dtype=False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def step(self) -> None:
        rows = [self._ids(*text) for text in self.texts[self.at : self.at + _BATCH]]
        self.at += _BATCH
        width = max(len(ids) for ids, _ in rows)
        padding = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([r + [padding] * (width - len(r)) for r, _ in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r, _ in rows])
        labels = torch.tensor([[-100] * n + r[n:] + [-100] * (width - len(r)) for r, n in rows])
        self.model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _ids(self, prompt: str, answer: str) -> tuple[list[int], int]:
        head = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return head + tail + [self.tokenizer.eos_token_id], len(head)


def _write(path: Path, texts: list[tuple[str, str]]) -> None:
    rows = [
        {
            "example_id": str(i),
            "prompt": prompt,
            "candidates": [answer],
            "candidate_weights": [1.0],
            "weight": 1.0,
            "chat": False,
        }
        for i, (prompt, answer) in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAINING), path)


def _job(base: Path, folder: Path, name: str) -> TrainingJob:
    name = name.replace(" ", "-")
    return TrainingJob(
        base_model=str(base),
        examples=(folder / "examples.parquet",),
        output_dir=folder / f"{name}-out",
        scratch_dir=folder / name,
        config=TrainingConfig(
            global_batch_size=_BATCH,
            micro_batch_size=_BATCH,
            trackers=(),
            checkpoint_every_steps=1_000_000,
        ),
    )


if __name__ == "__main__":
    main()
