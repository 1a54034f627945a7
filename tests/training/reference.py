"""The same training in plain PyTorch: one process, one candidate at a time, no packing, no ZeRO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import torch

from semievol_ray.training import TrainingJob, batches, zero


@dataclass
class Reference:
    losses: list[float]
    grad_norms: list[float]
    model: Any
    # Of the first step, before they are clipped.
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def train_reference(job: TrainingJob, **loading: Any) -> Reference:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = job.config
    rows = [row for path in job.examples for row in pq.read_table(path).to_pylist()]
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    model = AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.float32, **loading)
    if config.method == "lora":
        torch.manual_seed(job.seed)
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules="all-linear",
        )
        model = get_peft_model(model, lora)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=0.0)
    steps = batches.total_steps(len(rows), config.global_batch_size, config.epochs)
    reference = Reference([], [], model)
    for step in range(steps):
        picked = batches.batch_of_step(step, len(rows), config.global_batch_size, job.seed)
        nll, weight = torch.zeros(()), 0.0
        for row in (rows[i] for i in picked):
            prompt = tokenizer(row["prompt"], add_special_tokens=False).input_ids
            for number, text in enumerate(row["candidates"]):
                answer = tokenizer(text, add_special_tokens=False).input_ids
                answer = [*answer, tokenizer.eos_token_id]
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
                logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
                taken = logprobs[torch.arange(len(answer)), torch.tensor(answer)]
                share = row["weight"] * row["candidate_weights"][number]
                each = torch.ones(len(answer))
                if row["token_weights"] is not None:
                    each = torch.tensor(row["token_weights"][number])
                nll = nll - share * (each * taken).sum()
                weight += share * each.sum().item()
        loss = nll / weight
        loss.backward()
        if step == 0:
            named = {n: p.grad for n, p in model.named_parameters()}
            reference.gradients |= {n: g.clone() for n, g in named.items() if g is not None}
        norm = torch.nn.utils.clip_grad_norm_(trainable, config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = zero.learning_rate(config, step, steps)
        optimizer.step()
        optimizer.zero_grad()
        reference.losses.append(loss.item())
        reference.grad_norms.append(norm.item())
    return reference
