"""The tiny Llamas of two benchmarks: a base that has read the corpus, and how it is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semievol_ray.demo.model import make_llama, make_tokenizer, pretrain

# A tiny Llama learns little through an adapter or at the paper's rate: all its weights are
# trained, faster and for longer. What the policies differ in stays as the presets say.
TINY_TRAINING: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-3,
    "epochs": 4,
    "global_batch_size": 16,
    "micro_batch_size": 16,
    "precision": "fp32",
}


def make_base(
    texts: Sequence[str],
    answers: Sequence[str],
    folder: Path,
    *,
    seed: int,
    epochs: int,
    answer_tokens: bool = False,
) -> None:
    """A tiny Llama that has read the unlabelled texts, and some of them with answers at random.

    The latter show two texts, each with any answer, and one of them again: they teach the use of
    demonstrations, and nothing of the task. With `answer_tokens` each answer is one token: names of
    many parts would make such a model slow, and better at none of them.
    """
    import torch

    rng = random.Random(seed)
    readings = [f"{text}\nAnswer:" for text in texts] * epochs
    readings += [_episode(rng, texts, answers) for _ in range(len(readings) // 8)]
    tokenizer = make_tokenizer([*texts, *(f"\nAnswer: {a}" for a in answers)], 2048)
    if answer_tokens:
        tokenizer.add_tokens([f" {answer}" for answer in answers])
    torch.manual_seed(seed)
    model = make_llama(len(tokenizer), hidden=128, layers=3, heads=4, context=512)
    pretrain(model, tokenizer, readings, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _episode(rng: random.Random, texts: Sequence[str], answers: Sequence[str]) -> str:
    shown = [(text, rng.choice(answers)) for text in rng.sample(texts, 2)]
    shown.append(rng.choice(shown))
    return "\n\n".join(f"{text}\nAnswer: {answer}" for text, answer in shown)
