"""The chat models that people use, as far as prompts go: templates, special tokens, habits.

The templates are short equivalents of the published ones. The tokenizers are small, of each model's
own make: byte-level BPE, or SentencePiece's with its space at the beginning of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")

_WORDS = (
    "Which team answers? Which one is the capital of France? A. London B. Paris C. New York City "
    "D. Rome Answer: A Answer: B Label: card lost card billing delivery positive negative neutral "
    "user assistant system model The kettle does not switch on 14.1 0.141 1,234 analysis final "
    "Ünïcode % "
)


@dataclass(frozen=True)
class ChatModel:
    """`end`: what the template writes after an answer. `bos_added`: to every text."""

    eos: str
    end: str
    special: tuple[str, ...]
    bos: str | None = None
    bos_added: bool = False
    eos_added: bool = False
    # Tokens of their own that count as text: Qwen3's marks of a thought.
    marks: tuple[str, ...] = ()
    sentencepiece: bool = False
    template: str | None = None


_IM = ("<|im_start|>", "<|im_end|>")
_TURN = ("<start_of_turn>", "<end_of_turn>")
_LLAMA_3 = ChatModel(
    "<|eot_id|>", "<|eot_id|>",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
     "<|end_of_text|>"),
    bos="<|begin_of_text|>", bos_added=True,
)  # fmt: skip
_GEMMA = ChatModel(
    "<eos>", "<end_of_turn>", ("<bos>", "<eos>", *_TURN), bos="<bos>", bos_added=True,
    sentencepiece=True,
)  # fmt: skip

CHAT_MODELS = {
    "llama-3.1": _LLAMA_3,
    "llama-3.2": _LLAMA_3,
    "qwen2.5": ChatModel("<|im_end|>", "<|im_end|>", ("<|endoftext|>", *_IM)),
    "qwen3": ChatModel(
        "<|im_end|>", "<|im_end|>", ("<|endoftext|>", *_IM), marks=("<think>", "</think>")
    ),
    "deepseek-r1-distill": ChatModel(
        "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        bos="<｜begin▁of▁sentence｜>", bos_added=True,
        marks=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "mistral-v0.3": ChatModel(
        "</s>", "</s>", ("<s>", "</s>", "[INST]", "[/INST]"), bos="<s>", bos_added=True,
        sentencepiece=True,
    ),
    "gemma-2": _GEMMA,
    "gemma-3": _GEMMA,
    "phi-4": ChatModel(
        "<|endoftext|>", "<|im_end|>", ("<|endoftext|>", "<|im_sep|>", *_IM), bos="<|endoftext|>"
    ),
    "gpt-oss": ChatModel(
        "<|return|>", "<|return|>",
        ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>",
         "<|message|>", "<|call|>"),
        bos="<|startoftext|>",
    ),
    "smollm2": ChatModel("<|im_end|>", "<|im_end|>", ("<|endoftext|>", *_IM), bos="<|im_start|>"),
}  # fmt: skip


def make_tokenizer(name: str, model: ChatModel | None = None) -> Any:
    """The small tokenizer of one of CHAT_MODELS, or of another with that one's template."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    model = model or CHAT_MODELS[name]
    raw = Tokenizer(models.BPE(byte_fallback=model.sentencepiece))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if model.sentencepiece:
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
             decoders.Strip(" ", 1, 0)]
        )  # fmt: skip
        alphabet = [chr(i) for i in range(33, 127)] + ["▁", "\n"]
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(model.special),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator([_WORDS] * 4, trainer)
    ids = {token: raw.token_to_id(token) for token in model.special}
    before = f"{model.bos} " if model.bos_added else ""
    after = f" {model.eos}" if model.eos_added else ""
    if before or after:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{after}", special_tokens=list(ids.items())
        )
    raw.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in model.marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=model.bos, eos_token=model.eos, pad_token=model.special[0]
    )
    template = model.template or TEMPLATES.joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template.removesuffix("\n")
    tokenizer.name_or_path = name
    return tokenizer
