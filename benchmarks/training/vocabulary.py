"""The loss over a vocabulary of 128,256 in long answers: memory and time, against all logits.

One layer of a Llama of 1,024 and its output layer, 4,096 answer tokens in a pass, forward and back,
in bfloat16 and with all weights trained; each side in a process of its own, two threads.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import torch

from benchmarks.common.data import ROOT
from benchmarks.common.report import arguments, report, row
from benchmarks.training.sides import resident
from semievol_ray.demo.model import make_llama
from semievol_ray.training.batches import MicroBatch
from semievol_ray.training.head import AnswerHead
from semievol_ray.training.loss import pass_loss

VOCABULARY, HIDDEN, TOKENS = 128_256, 1024, 4096
MEGABYTE = 1e6


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--repeats", type=int, default=5)
        parser.add_argument("--side", choices=("ours", "whole"))

    args = arguments(__doc__, add)
    if args.side:
        print(json.dumps(measure(args.side == "ours")))
        return
    found: dict[str, list[dict[str, float]]] = {"ours": [], "whole": []}
    for turn in range(args.repeats):
        for side in list(found)[:: 1 if turn % 2 else -1]:
            found[side].append(_in_a_process(side))
    ours, whole = (
        {key: statistics.median(f[key] for f in found[side]) for key in ("bytes", "seconds")}
        for side in ("ours", "whole")
    )
    claim = f"a pass of {TOKENS:,} answer tokens, vocabulary {VOCABULARY:,}"
    peer = "all logits, torch's cross entropy"
    memory = (ours["bytes"] / MEGABYTE, whole["bytes"] / MEGABYTE)
    report(
        [
            row(f"{claim}: memory", *memory, peer, unit="MB", smaller_is_better=True),
            row(claim, ours["seconds"], whole["seconds"], peer, unit="s", smaller_is_better=True),
        ],
        repeats=args.repeats,
        packages=("torch", "transformers"),
        json_path=args.json,
    )


def _in_a_process(side: str) -> dict[str, float]:
    program = [sys.executable, "-m", "benchmarks.training.vocabulary", "--side", side]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(in_parts: bool) -> dict[str, float]:
    """Bytes beyond the model and its gradients, and seconds, of a forward and a backward."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = make_llama(VOCABULARY, hidden=HIDDEN, layers=1, heads=8, context=2 * TOKENS)
    model = model.to(torch.bfloat16)
    head = AnswerHead(model.get_output_embeddings()) if in_parts else None
    ids = torch.randint(VOCABULARY, (1, TOKENS))
    batch = MicroBatch(
        input_ids=ids,
        position_ids=torch.arange(TOKENS)[None],
        attention_mask=torch.ones_like(ids),
        segments=None,
        branches=None,
        rows=torch.zeros(TOKENS, dtype=torch.int64),
        columns=torch.arange(TOKENS),
        targets=ids[0],
        weights=torch.ones(TOKENS),
        tokens=TOKENS,
    )

    def step() -> None:
        pass_loss(model, batch, keep_logits=True, head=head).total.backward()

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    return {"bytes": resident("VmHWM") - before, "seconds": seconds}


if __name__ == "__main__":
    main()
