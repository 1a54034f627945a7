"""A LoRA step of real models' shapes on CPUs, against a bare peft loop and TRL: speed and memory.

SmolLM2-135M-Instruct, and a model of Qwen2.5-0.5B's shape with random weights (a vocabulary of
151,936). The demo's messages asked about in SmolLM2's chat template, eight of them a step, base and
adapter in bfloat16, two threads. The bare loop pads each batch to its longest row, computes the
logits of every place, and is torch's AdamW beside transformers and peft as they come. Two sides are
ours without what it does about short prompts. Sides take turns, a step each; memory is of a process
of its own, beyond what it held before the model.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common.data import ROOT
from benchmarks.common.report import Row, arguments, report, row
from benchmarks.training.sides import Ours, resident, take_turns
from semievol_ray.config import TrainingConfig
from semievol_ray.demo.messages import write_messages
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.schema import TRAINING
from semievol_ray.training import TrainingJob, attention
from semievol_ray.training.world import World, joined

_BATCH, _EXAMPLES = 8, 512
_LONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "DS_ACCELERATOR": "cpu",
}
_PEERS = {
    "bare": "transformers, peft and AdamW, padded",
    "trl": "TRL SFTTrainer",
    "opening": "what prompts open with read for each of them",
    "attention": "the same, and torch's attention in bfloat16",
}
MEGABYTE = 1e6


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--repeats", type=int, default=11)
        parser.add_argument("--threads", type=int, default=2)
        # One side in a process of its own: what `_memory` starts.
        parser.add_argument("--side", nargs=3, metavar=("NAME", "BASE", "FOLDER"))

    args = arguments(__doc__, add)
    os.environ |= _LONE | {"MASTER_PORT": "29532" if args.side else "29531"}
    torch.set_num_threads(args.threads)
    if args.side:
        print(json.dumps(_peak_of(args.side[0], Path(args.side[1]), Path(args.side[2]))))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, joined(Path(name) / "log", 600) as world:
        folder = Path(name)
        texts = _texts(smollm2())
        _write(folder / "examples.parquet", texts)
        bases = {
            "SmolLM2-135M-Instruct": smollm2(),
            "Qwen2.5-0.5B's shape": qwen_shaped(folder / "qwen"),
        }
        for model, base in bases.items():
            claim = f"LoRA, {model}, bfloat16, {args.threads} CPU threads"
            tokens = _tokens_an_example(base, texts)
            seconds = _turns(base, folder, world, texts, args.repeats)
            speed = {side: _BATCH * tokens / s for side, s in seconds.items()}
            rows += [
                row(claim, speed["ours"], speed[side], _PEERS[side], unit="tokens/s")
                for side in speed
                if side != "ours"
            ]
            peaks = {side: _memory(side, base, folder) for side in ("ours", "bare", "trl")}
            rows += [
                row(
                    f"{claim}: most memory",
                    peaks["ours"] / MEGABYTE,
                    peaks[side] / MEGABYTE,
                    _PEERS[side],
                    unit="MB",
                    smaller_is_better=True,
                )
                for side in ("bare", "trl")
            ]
    report(
        rows,
        repeats=args.repeats,
        packages=("torch", "transformers", "peft", "deepspeed", "trl"),
        json_path=args.json,
    )


def qwen_shaped(folder: Path) -> Path:
    """A model of Qwen2.5-0.5B's shape, its weights at random, with SmolLM2's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    if not folder.exists():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
            num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
            max_position_embeddings=2048,
        )  # fmt: skip
        model: Any = Qwen2ForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(smollm2()).save_pretrained(folder)
    return folder


def _turns(
    base: Path, folder: Path, world: World, texts: list[tuple[str, str]], repeats: int
) -> dict[str, float]:
    """Median seconds of a step of each side."""
    names = ["ours", "opening", "attention"] if base == smollm2() else ["ours"]
    ours = {name: Ours(_job(base, folder, f"{base.name} {name}"), world) for name in names}
    bare, short = _Bare(base, texts), attention._SHORT
    for name, side in ours.items():
        model = side.training.model
        layout = model.layout._replace(shares_opening=name == "ours")
        side.training.model = replace(model, layout=layout)

    def run(name: str, _: int = 1) -> None:
        attention._SHORT = 0 if name == "attention" else short
        ours[name].run(1)

    sides: dict[str, Callable[[int], None]] = {name: partial(run, name) for name in ours}
    found = take_turns(sides | {"bare": lambda _: bare.step()}, world, repeats)
    seconds: list[float] = []
    _train_with_trl(base, folder, repeats + 1, seconds, lambda: run("ours"))
    for side in ours.values():
        side.training.model.engine.destroy()
    return found | {"trl": statistics.median(seconds[1:])}


def _memory(side: str, base: Path, folder: Path) -> int:
    program = [sys.executable, "-m", "benchmarks.training.real_model", "--side", side, str(base),
               str(folder)]  # fmt: skip
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _peak_of(side: str, base: Path, folder: Path) -> int:
    """Bytes of this process in its steps, beyond what it held when all was imported."""
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import semievol_ray.training.checkpoint
    import semievol_ray.training.engine  # noqa: F401

    if side == "trl":
        import trl  # noqa: F401
    before = resident("VmRSS")
    if side == "ours":
        with joined(folder / "side.log", 600) as world:
            Ours(_job(base, folder, f"memory {base.name}"), world).run(3)
    elif side == "bare":
        bare = _Bare(base, _texts(base))
        for _ in range(3):
            bare.step()
    else:
        _train_with_trl(base, folder, 3, [], lambda: None)
    return resident("VmHWM") - before


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


def _train_with_trl(
    base: Path, folder: Path, steps: int, seconds: list[float], between: Callable[[], None]
) -> None:
    """Steps of TRL's SFTTrainer, each of whose seconds are added; `between` them another's turn."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)
            between()

    trainer = SFTTrainer(
        model=str(base),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            model_init_kwargs={"dtype": "bfloat16"},
            gradient_checkpointing=False,
            per_device_train_batch_size=_BATCH,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": p, "completion": c} for p, c in _texts(base)]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        ),
        callbacks=[Turns()],
    )
    trainer.train()


def _texts(base: Path) -> list[tuple[str, str]]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    ask = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    request = "Which team should answer this message?\n\n"
    return [
        (ask([{"role": "user", "content": request + message.text}]), message.team)
        for message in write_messages(_EXAMPLES, 0)
    ]


def _tokens_an_example(base: Path, texts: list[tuple[str, str]]) -> float:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return statistics.mean(len(tokenizer(p + c)["input_ids"]) + 1 for p, c in texts)


def _write(path: Path, texts: list[tuple[str, str]]) -> None:
    rows = [
        {
            "example_id": str(i),
            "prompt": prompt,
            "candidates": [answer],
            "candidate_weights": [1.0],
            "weight": 1.0,
            "chat": True,
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
