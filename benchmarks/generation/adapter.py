"""Prompts under a LoRA adapter on CPUs: the transformers engine against transformers and peft.

SmolLM2-135M-Instruct in bfloat16, LoRA of rank 16 on all linear layers, 64 prompts of 128 tokens
in batches of 32. Both sides compute the prompts and the logits behind them; the engine scores one
option of one token with them. The peer is `PeftModel.from_pretrained` and a forward pass, as they
come.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import torch

from benchmarks.common.report import arguments, interleaved, report, row
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.demo.smollm2 import smollm2
from semievol_ray.engines import Batch, EngineOptions, Request
from semievol_ray.engines.transformers_engine import TransformersEngine

_ROWS, _BATCH, _TOKENS = 64, 32, 128


def main() -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    args = arguments(__doc__)
    base, threads = smollm2(), len(os.sched_getaffinity(0))
    tokenizer = AutoTokenizer.from_pretrained(base)
    text = "<|im_start|>" + " the" * _TOKENS

    def load() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)

    with tempfile.TemporaryDirectory() as name:
        lora = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(load(), lora).save_pretrained(name)
        engine = TransformersEngine(
            ModelConfig(name=str(base), engine="transformers", dtype="bfloat16"),
            EngineOptions.of(GenerationConfig(batch_rows=_BATCH, cpus_per_replica=threads), 16),
        )
        batch = Batch(
            [Request(text, seed, chat=True) for seed in range(_ROWS)],
            candidates=[["A"]] * _ROWS,
            adapter=str(Path(name)),
        )
        peer = PeftModel.from_pretrained(load(), name).eval()
        ids = torch.tensor(tokenizer([text] * _BATCH, add_special_tokens=False).input_ids)

        def theirs() -> None:
            with torch.inference_mode():
                for _ in range(_ROWS // _BATCH):
                    peer(ids, logits_to_keep=1, use_cache=True)

        seconds = interleaved(
            {"ours": lambda: asyncio.run(engine.answer(batch)), "theirs": theirs}, repeats=5
        )
    tokens = _ROWS * ids.shape[1]
    report(
        [
            row(
                "prompts under a LoRA adapter, transformers engine",
                tokens / seconds["ours"],
                tokens / seconds["theirs"],
                "transformers and peft",
                unit="tokens/s",
            )
        ],
        repeats=5,
        packages=("torch", "transformers", "peft"),
        json_path=args.json,
    )


if __name__ == "__main__":
    main()
