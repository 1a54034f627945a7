"""One of two gloo workers of the training benchmark.

`python -m benchmarks.training.sides WHAT FOLDER`.
Started with the variables that torchrun sets. The sides of a claim train in the same processes and
take turns, an optimizer step each; the first worker writes their seconds to FOLDER/WHAT.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from semievol_ray.config import TrainingConfig, given
from semievol_ray.model_files import import_transformers
from semievol_ray.schema import TRAINING
from semievol_ray.training import TrainingJob, batches, metrics, zero
from semievol_ray.training.batches import Indices, Layout, Sequence
from semievol_ray.training.token_cache import TokenizedExamples
from semievol_ray.training.world import World, joined

WORDS = 4096
EXAMPLES = 512
REPEATS = 25
# Of a step against the bare loop, where the difference is a few per cent.
STEP_REPEATS = 75
LABELS = ("w1 w2", "w3", "w4 w5 w6")


def write_model(folder: Path, hidden: int = 256, layers: int = 4, heads: int = 8) -> Path:
    """A Llama with random weights, and a tokenizer to which a word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from semievol_ray.demo.model import make_llama

    words = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(WORDS - 3))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    torch.manual_seed(0)
    make_llama(
        WORDS,
        hidden=hidden,
        layers=layers,
        heads=heads,
        context=2048,
        intermediate_size=hidden * 11 // 4,
        num_key_value_heads=heads // 2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return folder


def write_examples(path: Path, *, soft: bool = False) -> Path:
    """Prompts as long as those of FPB: 30 tokens of question and options, and a sentence.

    FPB's sentences have 35 to 300 characters, half of them up to 113: at four a token, log-normal
    about 28.
    """
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(28), 0.5, EXAMPLES).clip(8, 75).astype(int)
    rows = []
    for number, length in enumerate(lengths):
        label = int(rng.integers(3))
        # The words tell the label, so that there is something to learn.
        sentence = rng.integers(10, WORDS - 3, length) // 3 * 3 + label
        words = [*(f"w{i}" for i in range(10, 40)), *(f"w{min(i, WORDS - 4)}" for i in sentence)]
        rows.append(
            {
                "example_id": str(number),
                "prompt": " ".join(words),
                "candidates": [f" {t}" for t in LABELS] if soft else [f" {LABELS[label]}"],
                "candidate_weights": [0.6, 0.3, 0.1] if soft else [1.0],
                "weight": 1.0,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAINING), path)
    return path


def make_job(folder: Path, name: str, examples: str = "hard", **settings: Any) -> TrainingJob:
    options: dict[str, Any] = {
        "method": "full", "precision": "fp32", "learning_rate": 1e-3, "schedule": "constant",
        "warmup_ratio": 0.0, "global_batch_size": 16, "micro_batch_size": 4, "workers": 2,
        "trackers": (), "checkpoint_every_steps": 1_000_000, "zero_stage": 2,
    }  # fmt: skip
    return TrainingJob(
        base_model=str(folder / "model"),
        examples=(folder / f"{examples}.parquet",),
        output_dir=folder / f"{name}-out",
        scratch_dir=folder / name,
        config=TrainingConfig(**(options | settings)),
    )


class Ours:
    """The product's loop, step after step, with all that it does beside the steps."""

    def __init__(self, job: TrainingJob, world: World) -> None:
        from semievol_ray.training.loop import _Training

        self.losses: list[float] = []
        write = metrics.Writer(job)

        def on_progress(progress: Any) -> None:
            write(progress)
            self.losses.append(progress.loss)

        self.training = _Training(job, world, on_progress)
        self.training.total_steps = 0

    def run(self, steps: int) -> None:
        self.training.total_steps += steps
        self.training.run()


class Bare:
    """`deepspeed.initialize` and the least loop around it; its batches wait in memory.

    `in_order`: rows are padded to the longest of those that happen to come together, as a data
    loader and a padding collator leave them.
    """

    def __init__(
        self, like: Ours, job: TrainingJob, world: World, *, in_order: bool = False
    ) -> None:
        import deepspeed
        from transformers import AutoModelForCausalLM
        from transformers.integrations import HfDeepSpeedConfig

        from semievol_ray.training.attention import use_packed_attention

        ours, config = like.training, job.config
        settings = zero.deepspeed_config(config, gpu=False)
        partitioned = HfDeepSpeedConfig(settings) if config.zero_stage == 3 else None
        model = AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.float32)
        del partitioned
        layout = ours.model.layout
        if layout.packed:
            use_packed_attention(model)
        self.engine, *_ = deepspeed.initialize(
            model=model.train(),
            optimizer=zero.build_optimizer(model, config, gpu=False),
            config=settings,
            dist_init_required=False,
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = config.learning_rate
        self.world, self.at, self.steps = world, 0, []
        plan = rows_in_order if in_order else batches.plan
        for step in range(STEP_REPEATS + 1):
            batch = ours.kept[batches.batch_of_step(step, EXAMPLES, config.global_batch_size, 0)]
            passes = plan(ours.examples, batch, layout, world.size)[world.rank]
            micros = [batches.collate(ours.examples, p, layout, ours.pad_id) for p in passes]
            self.steps.append((micros, ours.examples.target_weight(batch)))

    def run(self, steps: int) -> None:
        from semievol_ray.training.loss import pass_loss

        for micros, weight in self.steps[self.at : self.at + steps]:
            self.nll = torch.zeros(())
            for number, micro in enumerate(micros, start=1):
                self.engine.set_gradient_accumulation_boundary(number == len(micros))
                loss = pass_loss(self.engine, micro, keep_logits=True).total
                self.engine.backward(loss * (self.world.size / weight), scale_wrt_gas=False)
                self.nll += loss.detach()
            self.engine.step()
            self.weight = weight
        self.at += steps

    def last_loss(self) -> float:
        """Of the step before; every worker must ask."""
        return self.world.sum(self.nll.item())[0] / self.weight


def rows_in_order(
    examples: TokenizedExamples, batch: Indices, layout: Layout, workers: int
) -> list[list[list[Sequence]]]:
    """Padded passes of rows as they come, each worker's share of the batch in one piece."""
    rows = [
        Sequence(int(i), (c,), len(examples.prompt(i)) + len(examples.candidate(c)) - 1)
        for i in batch
        for c in examples.candidates_of(i)
    ]
    size = layout.micro_batch_size
    shares = [rows[w * len(rows) // workers : (w + 1) * len(rows) // workers]
              for w in range(workers)]  # fmt: skip
    return [[share[at : at + size] for at in range(0, len(share), size)] for share in shares]


def take_turns(
    sides: Mapping[str, Callable[[int], None]], world: World, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of a step of each side; the first step of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in list(sides.items())[:: 1 if turn % 2 else -1]:
            world.barrier()
            start = time.perf_counter()
            run(1)
            world.barrier()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def steps(folder: Path, world: World) -> dict[str, Any]:
    """Seconds a step at every ZeRO stage, ours and bare."""
    found = {}
    for stage in range(4):
        job = make_job(folder, f"stage-{stage}", zero_stage=stage)
        ours = Ours(job, world)
        bare = Bare(ours, job, world)
        found[str(stage)] = take_turns({"ours": ours.run, "bare": bare.run}, world, STEP_REPEATS)
        ours.training.model.engine.destroy()
        bare.engine.destroy()
    return found


def layouts(folder: Path, world: World) -> dict[str, Any]:
    """Seconds a step and losses of single answers and of soft targets, packed and padded."""
    found = {}
    for examples, size in (("hard", 8), ("hard", 32), ("soft", 8)):
        jobs = {
            name: make_job(
                folder, f"{examples}-{size}-{name}", examples,
                packing=name == "packed", global_batch_size=size,
            )
            for name in ("packed", "sorted")
        }  # fmt: skip
        sides = {name: Ours(job, world) for name, job in jobs.items()}
        plain = Bare(sides["sorted"], jobs["sorted"], world, in_order=True)
        runs = {name: side.run for name, side in sides.items()}
        seconds = take_turns(runs | {"in order": plain.run}, world)
        losses = {name: side.losses[-1] if side.losses else None for name, side in sides.items()}
        losses["in order"] = plain.last_loss()
        found[f"{examples} {size}"] = {"seconds": seconds, "losses": losses}
        plain.engine.destroy()
        for side in sides.values():
            side.training.model.engine.destroy()
    return found


def trl(folder: Path, world: World) -> dict[str, Any]:
    """Seconds a step of LoRA, ours and TRL's SFTTrainer; ours takes its turns between TRL's."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    job = make_job(folder, "lora", method="lora")
    config = job.config
    ours = Ours(job, world)
    rows = pq.read_table(job.examples[0]).to_pylist()
    seconds: dict[str, list[float]] = {"ours": [], "trl": []}

    class Turns(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            world.barrier()
            middle = time.perf_counter()
            ours.run(1)
            world.barrier()
            end = time.perf_counter()
            if state.global_step > 1:
                seconds["trl"].append(middle - self.start)
                seconds["ours"].append(end - middle)
            self.start = time.perf_counter()

    trainer = SFTTrainer(
        model=job.base_model,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=given(config.micro_batch_size),
            gradient_accumulation_steps=2,
            max_steps=REPEATS + 1,
            learning_rate=given(config.learning_rate),
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=config.max_length,
            report_to="none",
            save_strategy="no",
            logging_steps=(REPEATS + 1) // 2,
            disable_tqdm=True,
            ddp_backend="gloo",
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row["prompt"], "completion": row["candidates"][0]} for row in rows]
        ),
        processing_class=AutoTokenizer.from_pretrained(job.base_model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules="all-linear",
        ),
        callbacks=[Turns()],
    )
    assert trainer.accelerator.num_processes == world.size
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        # TRL gives the mean of the steps since it last did.
        "losses": {"ours": ours.losses[-((REPEATS + 1) // 2) :], "trl": losses[-1:]},
    }


def memory(folder: Path, world: World, stage: int) -> dict[str, Any]:
    """Bytes of this worker in and after a bf16 step, beyond what it held before the model."""
    # What is imported is not held for the model.
    import transformers.models.llama.modeling_llama  # noqa: F401

    import semievol_ray.training.checkpoint
    import semievol_ray.training.engine  # noqa: F401

    job = make_job(
        folder, f"memory-{stage}", zero_stage=stage, precision="bf16", global_batch_size=2
    )
    before = resident("VmRSS")
    ours = Ours(job, world)
    ours.run(1)
    # Linux forgets the peak so far, which was of loading the model.
    Path("/proc/self/clear_refs").write_text("5")
    ours.run(1)
    parameters = ours.training.model.engine.module.parameters()
    count = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    return {
        "peak": resident("VmHWM") - before,
        "held": resident("VmRSS") - before,
        "parameters": count,
    }


def resident(name: str) -> int:
    """Bytes of this process, by their name in /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    # With scikit-learn, which TRL's own imports look for.
    if what != "trl":
        import_transformers()
    works = {"steps": steps, "layouts": layouts, "trl": trl}
    with joined(folder / "deepspeed.log", 1800) as world:
        if what in works:
            found = works[what](folder, world)
        else:
            found = memory(folder, world, int(what.removeprefix("memory-")))
        if world.is_first:
            (folder / f"{what}.json").write_text(json.dumps(found))
        world.barrier()


if __name__ == "__main__":
    main()
