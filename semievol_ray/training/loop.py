"""The training loop. It knows nothing of Ray: a process group and a TrainingJob are all it takes.

Every worker runs `train_worker`. A step is a global batch, whatever the number of workers: they
plan the same forward passes, compute their share of them, and DeepSpeed adds up the gradients. What
a step does is a function of the job and the step alone, so a checkpoint needs no data or random
state to go on exactly where it was.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from semievol_ray.config import given
from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer, positions
from semievol_ray.training import batches, models, token_cache, zero
from semievol_ray.training.batches import Indices, MicroBatch, Sequence
from semievol_ray.training.depot import Depot, remote
from semievol_ray.training.failures import Diverged, explain
from semievol_ray.training.job import OnProgress, TrainingJob, TrainingResult, fingerprint
from semievol_ray.training.notice import Notice
from semievol_ray.training.token_cache import TokenizedExamples
from semievol_ray.training.world import World, joined


def train_worker(
    job: TrainingJob, on_progress: OnProgress, depot: Depot | None = None
) -> TrainingResult | None:
    """Train as one of the workers. The first one writes `job.output_dir` and gets the result.

    Goes on from the newest checkpoint in `job.scratch_dir`, or in the depot of workers that share
    no disk, if this very job left one there. Raises
    UserError for what the user must mend, and SemiEvolError when the loss is not a number, when
    memory or the disk runs out, or when another worker is gone.
    """
    started = time.monotonic()
    rank = os.environ.get("RANK", "0")
    log_file = job.logs / f"deepspeed-{rank}.log"
    timeout, gpus = job.config.timeout_seconds, job.config.gpus_per_worker
    with joined(log_file, timeout, gpus) as world, Notice() as notice:
        try:
            training = _Training(job, world, on_progress, remote(depot), notice)
            training.resume()
            training.run()
            return training.finish(started)
        except Exception as error:
            raise explain(error, job.config, world, job.scratch_dir) from error


class _Training:
    def __init__(
        self,
        job: TrainingJob,
        world: World,
        on_progress: OnProgress,
        depot: Depot | None = None,
        notice: Notice | None = None,
    ) -> None:
        from semievol_ray.training import engine
        from semievol_ray.training.checkpoint import Checkpoints, TrainingState
        from semievol_ray.training.metrics import Meter
        from semievol_ray.training.trackers import Trackers

        self.job, self.config, self.world = job, job.config, world
        self.on_progress = on_progress
        self.depot, self.notice = depot, notice or Notice()
        # Whether the machine of some worker is going, and a checkpoint was taken for that.
        self.is_going = self.has_left_word = False
        with world.together():
            self.tokenizer = load_tokenizer(job.base_model, job.revision, job.trust_remote_code)
            if self.tokenizer.eos_token_id is None:
                raise UserError(f"model {job.base_model}: its tokenizer has no eos_token")
            base = models.load_config(job.base_model, job.revision, job.trust_remote_code)
        longest = self.config.max_length
        self.max_length = min(longest, positions(base) or longest)
        pad_id = self.tokenizer.pad_token_id
        self.pad_id = self.tokenizer.eos_token_id if pad_id is None else pad_id
        self.examples = self.tokenized(job.examples)
        share = 0 if job.validation else self.config.held_out
        self.kept, held = self.examples.split(share, job.seed)
        self.held_out = (self.examples, held)
        if job.validation:
            checked = self.tokenized(job.validation)
            self.held_out = (checked, np.arange(len(checked)))
        batch_size = self.config.global_batch_size
        self.steps_per_epoch = batches.steps_per_epoch(len(self.kept), batch_size)
        self.total_steps = batches.total_steps(
            len(self.kept), batch_size, given(self.config.epochs)
        )
        self.state = TrainingState()
        folder = job.scratch_dir / "checkpoints"
        self.checkpoints = Checkpoints(folder, fingerprint(job), world, depot)
        with world.together():
            self.saved = self.checkpoints.newest()
        self.model = engine.build(merged_start(job, world, depot), world)
        self.check_head()
        self.meter = Meter(self.model, world, self.total_steps)
        self.trackers = Trackers(job if world.is_first else None)

    def tokenized(self, paths: tuple[Path, ...]) -> TokenizedExamples:
        """The examples as token ids, from the cache in `scratch_dir` where they are there.

        Workers that share the folder share the work; others do all of it, each on its machine.
        """
        world, tokenizer, limit = self.world, self.tokenizer, self.max_length
        with world.together():
            parts = token_cache.plan_parts(paths)
        name = token_cache.fingerprint(paths, tokenizer, limit)
        folder = self.job.scratch_dir / "tokens" / name
        with world.together():
            mine = parts[world.rank :: world.size] if self.depot is None else parts
            token_cache.write_parts(folder, mine, tokenizer, limit)
        with world.together():
            examples = token_cache.load_parts(folder, len(parts))
        examples.check_dropped(self.config, limit)
        return examples

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        if self.saved is not None:
            self.checkpoints.load(self.model.engine, self.saved)
            self.state = replace(self.saved.state)
            with self.world.together():
                if self.depot is not None and self.world.is_first:
                    self.depot.fetch("scratch/best", self.best_folder)

    def run(self) -> None:
        """All the steps that are left."""
        while self.state.step < self.total_steps and not self.state.stopped_early:
            rate = zero.learning_rate(self.config, self.state.step, self.total_steps)
            loss, read, computed = self.take_step(rate)
            self.state.step += 1
            self.state.tokens += read
            self.state.loss_sum += loss
            done = self.state.step == self.total_steps
            every = self.config.evaluate_every_steps or self.steps_per_epoch
            if self.state.step % every == 0 or done:
                self.evaluate()
            if self.world.is_first:
                progress = self.meter.progress(self.state, loss, rate, read, computed)
                self.trackers.log(progress)
                self.on_progress(progress)
            due = self.state.step % self.config.checkpoint_every_steps == 0
            called = self.is_going and not self.has_left_word
            if (due or called) and not done:
                self.checkpoints.save(self.model.engine, self.state)
            if called and not done:
                self.checkpoints.wait()
            self.has_left_word = self.is_going

    def take_step(self, rate: float) -> tuple[float, int, int]:
        """One optimizer step.

        Returns the loss of the global batch, the tokens of its sequences, and those computed: what
        sequences share is computed once.
        """
        import torch

        engine, world, step = self.model.engine, self.world, self.state.step
        picked = batches.batch_of_step(
            step, len(self.kept), self.config.global_batch_size, self.job.seed
        )
        batch = self.kept[picked]
        plans = batches.plan(self.examples, batch, self.model.layout, world.size)
        weight = self.examples.target_weight(batch)
        # Dropout, too, is a function of the job and the step.
        entropy = np.random.SeedSequence([self.job.seed, step, world.rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        for group in engine.optimizer.param_groups:
            group["lr"] = rate * group["rate_ratio"]
        nll, tokens = torch.zeros((), device=world.device), 0
        for number, sequences in enumerate(plans[world.rank], start=1):
            engine.set_gradient_accumulation_boundary(number == len(plans[world.rank]))
            micro = self.collate(self.examples, sequences)
            loss = self.model.loss_of(micro, self.config.loss).total
            # DeepSpeed averages gradients over the workers; the loss is a sum over them.
            engine.backward(loss * (world.size / weight), scale_wrt_gas=False)
            nll += loss.detach()
            tokens += micro.tokens
        total, going, computed = world.sum(nll.item(), self.notice.given, tokens)
        self.is_going, mean = going > 0, total / weight
        if not math.isfinite(mean):
            raise self.diverged(f"the loss is {mean}")
        engine.step()
        norm = engine.get_global_grad_norm()
        if self.config.number_format != "fp16" and norm is not None and not math.isfinite(norm):
            raise self.diverged(f"the gradient's norm is {norm}")
        read = sum(s.length for passes in plans for p in passes for s in p)
        return mean, read, round(computed)

    def diverged(self, what: str) -> Diverged:
        """The error that ends a training whose numbers are no numbers; no checkpoint holds them."""
        self.checkpoints.wait()
        return Diverged(
            f"{what} at step {self.state.step + 1} of {self.total_steps}: lower "
            f"training.learning_rate ({self.config.learning_rate}) or choose another "
            f"training.precision ({self.config.number_format})"
        )

    def collate(self, examples: TokenizedExamples, sequences: list[Sequence]) -> MicroBatch:
        """The tensors of one pass, on this worker's device."""
        micro = batches.collate(examples, sequences, self.model.layout, self.pad_id)
        return micro.to(self.world.device)

    def check_head(self) -> None:
        """Compute the loss from logits where this model does more to them than its output layer."""
        import torch

        model = self.model
        if model.head is None:
            return
        first = batches.batch_of_step(
            0, len(self.kept), self.config.global_batch_size, self.job.seed
        )
        plans = batches.plan(self.examples, self.kept[first], model.layout, self.world.size)
        some = plans[self.world.rank][0][:1]
        micro = self.collate(self.examples, some)
        # Far from 0, where a cap or a scale shows.
        micro = replace(micro, weights=torch.full_like(micro.weights, 1000.0))
        model.engine.eval()
        with torch.no_grad():
            found = [m.loss_of(micro).total.item() for m in (model, replace(model, head=None))]
        model.engine.train()
        if self.world.sum(not math.isclose(*found, rel_tol=1e-3))[0]:
            model.head.remove()
            self.model = replace(model, head=None)

    def evaluate(self) -> None:
        """Measure the held-out answers, keep the best weights, and stop when gains stay out."""
        state, patience = self.state, self.config.early_stopping_patience
        measured = self.measure_held_out()
        if measured is None:
            return
        state.held_out_loss, state.held_out_exact_match = measured
        if patience is None:
            return
        loss, exact_match = measured
        # Smaller is better; among as many right answers the likelier ones.
        score = (loss,) if self.config.best_by == "loss" else (-exact_match, loss)
        if state.best_score is None or score < tuple(state.best_score):
            state.best_score, state.evaluations_without_gain = list(score), 0
            state.best_loss, state.best_exact_match = loss, exact_match
            self.export(self.best_folder)
        else:
            state.evaluations_without_gain += 1
        state.stopped_early = state.evaluations_without_gain >= patience

    def measure_held_out(self) -> tuple[float, float] | None:
        """Of the held-out answers: mean NLL of a token, in nats, and share that is an exact match.

        An answer is one where each of its tokens, its end too, is the most probable after those
        before it: where greedy decoding writes just that. None where nothing is held out.
        """
        import torch

        examples, held = self.held_out
        if not len(held):
            return None
        engine, world = self.model.engine, self.world
        engine.eval()
        nll, exact = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(held), self.config.global_batch_size):
                batch: Indices = held[start : start + self.config.global_batch_size]
                plans = batches.plan(examples, batch, self.model.layout, world.size)
                for sequences in plans[world.rank]:
                    found = self.model.loss_of(self.collate(examples, sequences))
                    nll += found.total.item()
                    exact += batches.exact_matches(examples, sequences, found.right.cpu().numpy())
        engine.train()
        nll, exact_match = world.sum(nll, exact)
        return nll / examples.target_weight(held), exact_match / len(held)

    @property
    def best_folder(self) -> Path:
        """Where the best weights wait until the training is done."""
        return self.job.scratch_dir / "best"

    def export(self, folder: Path) -> None:
        """Write the weights as they are now, whole or not at all. Every worker must call it."""
        from semievol_ray.training import export

        module = self.model.engine.module
        weights = export.gather_weights(
            module, self.world, trainable_only=self.config.method == "lora"
        )
        with self.world.together():
            if self.world.is_first:
                partial = folder.with_name(f".{folder.name}.partial")
                export.save_weights(module, weights, self.tokenizer, self.job, partial)
                export.commit(partial, folder)
                if self.depot is not None:
                    self.depot.put(folder, f"scratch/{folder.name}")

    def finish(self, started: float) -> TrainingResult | None:
        """Put the result in its place and remove what was only there to resume."""
        from semievol_ray.training import export

        result = TrainingResult(
            output_dir=self.job.output_dir,
            kind="adapter" if self.config.method == "lora" else "full",
            steps=self.state.step,
            examples=len(self.kept),
            tokens=self.state.tokens,
            train_loss=self.state.loss_sum / max(1, self.state.step),
            held_out_loss=self.state.held_out_loss,
            held_out_exact_match=self.state.held_out_exact_match,
            best_held_out_loss=self.state.best_loss,
            best_held_out_exact_match=self.state.best_exact_match,
            stopped_early=self.state.stopped_early,
            truncated_rows=self.examples.truncated_rows,
            dropped_rows=self.examples.dropped_rows,
            max_length=self.max_length,
            seconds=time.monotonic() - started,
        )
        if self.state.best_loss is None:
            self.export(self.best_folder)
        with self.world.together():
            if self.world.is_first:
                export.write_model_card(self.best_folder, self.job, result)
                export.commit(self.best_folder, self.job.output_dir)
        self.trackers.close()
        self.checkpoints.remove()
        if self.world.is_first:
            shutil.rmtree(self.best_folder, ignore_errors=True)
        self.model.engine.destroy()
        self.world.barrier()
        return result if self.world.is_first else None


def merged_start(job: TrainingJob, world: World, depot: Depot | None) -> TrainingJob:
    """The job itself; one that trains all weights from an adapter starts from their merge."""
    if job.config.method == "lora" or job.adapter_from is None:
        return job
    from semievol_ray.training.adapters import merge

    merged = job.scratch_dir / "merged-base"
    with world.together():
        if world.is_first and not merged.exists():
            merge(
                job.adapter_from,
                merged,
                base_model=job.base_model,
                revision=job.revision,
                trust_remote_code=job.trust_remote_code,
            )
            if depot is not None:
                depot.put(merged, f"scratch/{merged.name}")
    with world.together():
        if depot is not None and not world.is_first:
            depot.fetch(f"scratch/{merged.name}", merged)
    return replace(job, base_model=str(merged), revision=None)
