"""The demo's tiny Llama, made from nothing: its vocabulary, its weights, its pre-training.

It learns the language of the messages and the use of demonstrations, and not one true label.
`python -m semievol_ray.demo.model FOLDER` makes it again; the package ships the result.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semievol_ray.demo.messages import write_episode, write_messages

PROMPT = "{}\nTeam:"
SEED = 20_250_101  # no demo run draws its messages from this seed
_EPISODES = 24_000
_MESSAGES = 12_000


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer in transformers' form, with an end-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )


def make_llama(
    vocabulary: int, *, hidden: int, layers: int, heads: int, context: int, **others: Any
) -> Any:
    """A Llama with random weights; seed torch beforehand. `others` are fields of LlamaConfig.

    Without them its special tokens are those of `make_tokenizer`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3 // 32 * 32,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "bos_token_id": None,
        "pad_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**(shape | others)))


def pretrain(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    seed: int,
    epochs: float = 1.0,
    batch: int = 32,
    learning_rate: float = 2e-3,
    log: bool = False,
) -> float:
    """Train on whole texts, each ended by the end-of-text token; returns the last mean loss."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(seed)
    ids = [[*i, tokenizer.eos_token_id] for i in tokenizer(list(texts))["input_ids"]]
    order = random.Random(seed)
    steps = int(epochs * len(ids) / batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    # Texts of like length share a batch; the batches are shuffled, not the texts.
    batches: list[list[int]] = []
    average, started = 0.0, time.monotonic()
    for step in range(steps):
        if not batches:
            indices = list(range(len(ids)))
            order.shuffle(indices)
            indices.sort(key=lambda i: len(ids[i]) // 8)
            batches = [indices[i : i + batch] for i in range(0, len(indices), batch)]
            order.shuffle(batches)
        rows = [ids[i] for i in batches.pop()]
        width = min(max(map(len, rows)), model.config.max_position_embeddings)
        inputs = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for row, text in enumerate(rows):
            text = text[:width]
            inputs[row, : len(text)] = torch.tensor(text)
            labels[row, : len(text)] = torch.tensor(text)
        logits = model(input_ids=inputs).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if log and step % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps} loss {average:.3f} {seconds:.0f} s", flush=True)
    return average


def make_model(folder: Path) -> None:
    """Make the demo's model and leave it in a folder, in half precision."""
    import torch

    rng = random.Random(SEED)
    texts = [message.text for message in write_messages(_MESSAGES, SEED)]
    texts += [write_episode(rng, PROMPT) for _ in range(_EPISODES)]
    tokenizer = make_tokenizer(texts, 1024)
    torch.manual_seed(SEED)
    model = make_llama(len(tokenizer), hidden=128, layers=4, heads=4, context=512)
    pretrain(model, tokenizer, texts, seed=SEED, log=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))
