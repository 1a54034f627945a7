"""What a fine-tuner may choose: optimizers by name, noise, a quantized base, the best weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from semievol_ray.config import TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.training import batches, train
from semievol_ray.training.batches import MicroBatch
from semievol_ray.training.noise import EmbeddingNoise
from tests.training.conftest import MakeJob, make_row, train_here, write_rows
from tests.training.test_checkpoint import SIX_STEPS, resumed, weights

OPTIMIZERS = {
    "Adam": {}, "Adamax": {}, "NAdam": {}, "RAdam": {}, "RMSprop": {"alpha": 0.9},
    "SGD": {"momentum": 0.9}, "AdamW8bit": {}, "Lion8bit": {},
}  # fmt: skip


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_goes_on_where_it_was(
    make_job: MakeJob, tmp_path: Path, name: str, stage: int
) -> None:
    from tests.training.worker_program import run

    # Large enough for 8 bits, where bitsandbytes begins at 4,096 elements.
    job = make_job(
        method="full", optimizer=name, optimizer_options=OPTIMIZERS[name], zero_stage=stage,
        betas=(0.9, 0.99), **SIX_STEPS | {"epochs": 4},
    )  # fmt: skip
    whole, steps = run(job, copy_at=3, copy_to=tmp_path / "left")
    assert steps[-1].loss < steps[0].loss
    result, again = train_here(resumed(job, tmp_path, tmp_path / "left", "again"))
    assert [p.step for p in again] == [p.step for p in steps[3:]]
    if name.endswith("8bit"):
        # A block whose largest element is negative comes back within 8 bits, and no nearer.
        assert [p.loss for p in again] == pytest.approx([p.loss for p in steps[3:]], abs=0.002)
        return
    assert [p.loss for p in again] == [p.loss for p in steps[3:]]
    expected = weights(whole)
    for key, tensor in weights(result).items():
        assert torch.equal(tensor, expected[key]), key


def test_state_in_eight_bits_goes_on_at_another_zero_stage(
    make_job: MakeJob, tmp_path: Path
) -> None:
    from tests.training.worker_program import run

    options: dict[str, Any] = {"method": "full", "optimizer": "AdamW8bit", **SIX_STEPS}
    _, steps = run(make_job(zero_stage=0, **options), copy_at=3, copy_to=tmp_path / "left")
    job = resumed(make_job(zero_stage=3, **options), tmp_path, tmp_path / "left", "again")
    _, again = train_here(job)
    # Blocks of 256 lie elsewhere: as near as 8 bits are.
    assert [p.loss for p in again] == pytest.approx([p.loss for p in steps[3:]], abs=0.01)


def test_options_that_an_optimizer_does_not_know_are_one_line(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="training.optimizer_options: RMSprop refuses them"):
        train_here(make_job(optimizer="RMSprop", optimizer_options={"alfa": 1}))


def test_a_tokenizer_without_an_end_is_one_line(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path
) -> None:
    # An answer without one would teach the model never to stop.
    endless = shutil.copytree(tiny_model, tmp_path / "endless")
    settings = endless / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    values.pop("eos_token")
    settings.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"endless: its tokenizer has no eos_token"):
        train_here(make_job(base_model=str(endless)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "4bit", "method": "full"}, "it needs method: lora"),
        ({"quantization": "8bit", "zero_stage": 3}, "quantization needs zero_stage: 2 or less"),
        ({"optimizer": "Lion8bit", "offload_optimizer": "cpu"}, "is not off-loaded"),
        ({"optimizer": "Adagrad"}, "optimizer"),
        ({"best_by": "exact_match"}, "best_by needs early_stopping_patience"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_an_adapter_learns_over_a_quantized_base_and_serves_over_the_whole_one(
    make_job: MakeJob, tmp_path: Path, bits: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.training.worker_program import run

    job = make_job(
        quantization=bits, precision="bf16", zero_stage=2, learning_rate=1e-2,
        **SIX_STEPS | {"epochs": 4},
    )  # fmt: skip
    whole, steps = run(job, copy_at=6, copy_to=tmp_path / "left")
    assert steps[-1].loss < steps[0].loss - 0.3
    _, again = train_here(resumed(job, tmp_path, tmp_path / "left", "again"))
    assert [p.loss for p in again] == [p.loss for p in steps[6:]]
    base = AutoModelForCausalLM.from_pretrained(job.base_model)
    served = PeftModel.from_pretrained(base, str(whole.output_dir))
    assert served.peft_config["default"].base_model_name_or_path == job.base_model


def test_without_bitsandbytes_quantization_is_one_line(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'semievol_ray\[bitsandbytes\]'"):
        train_here(make_job(quantization="4bit"))


@pytest.mark.parametrize("packed", [True, False])
def test_noise_is_of_each_sequences_length_and_of_training_alone(packed: bool) -> None:
    embedding = torch.nn.Embedding(10, 16)
    noise = EmbeddingNoise(embedding, 5.0)
    none = torch.zeros(0, dtype=torch.int64)
    lengths = [4, 100]
    if packed:
        ids = torch.ones((1, sum(lengths)), dtype=torch.int64)
        segments = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None]
        mask = None
    else:
        ids, segments = torch.ones((2, 100), dtype=torch.int64), None
        mask = (torch.arange(100) < torch.tensor(lengths)[:, None]).long()
    noise.enter_pass(MicroBatch(ids, ids, mask, segments, segments, none, none, none, none, 1))
    added = (embedding(ids) - embedding.weight[1]).detach().abs()
    found = added.reshape(-1, 16).split(lengths) if packed else (added[0, :4], added[1])
    for size, part in zip(lengths, found, strict=True):
        most = 5.0 / (size * 16) ** 0.5
        assert 0.7 * most < part.max() <= most
    embedding.eval()
    assert torch.equal(embedding(ids), embedding.weight[ids])


def test_noise_changes_the_training_and_not_what_is_measured(
    make_job: MakeJob, tmp_path: Path
) -> None:
    from tests.training.worker_program import run

    options: dict[str, Any] = {"held_out": 0.25, "learning_rate": 1e-9, **SIX_STEPS}
    plain, _ = train_here(make_job(**options))
    job = make_job(neftune_alpha=5.0, **options)
    noisy, steps = run(job, copy_at=3, copy_to=tmp_path / "left")
    assert noisy.held_out_loss == pytest.approx(plain.held_out_loss, abs=1e-6)
    assert noisy.train_loss != pytest.approx(plain.train_loss, abs=1e-4)
    _, again = train_here(resumed(job, tmp_path, tmp_path / "left", "again"))
    assert [p.loss for p in again] == [p.loss for p in steps[3:]]


@pytest.mark.parametrize("packing", [True, False])
def test_exact_matches_are_what_greedy_decoding_writes(
    make_job: MakeJob, tmp_path: Path, packing: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [make_row(i, soft=False) for i in range(24)]
    examples = write_rows(tmp_path / "rows.parquet", rows)
    job = make_job(
        examples, method="full", epochs=20, learning_rate=5e-3, validation=(examples,),
        packing=packing, evaluate_every_steps=5, early_stopping_patience=100, best_by="exact_match",
    )  # fmt: skip
    result, steps = train_here(job)
    measured = {p.step: p.held_out_exact_match for p in steps}
    assert measured[4] is None and measured[5] == measured[6] is not None
    assert result.best_held_out_exact_match == max(m for m in measured.values() if m is not None)
    model = AutoModelForCausalLM.from_pretrained(result.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(result.output_dir)
    right = 0
    for row in rows:
        ids = tokenizer(row["prompt"], add_special_tokens=False, return_tensors="pt").input_ids
        written = model.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :]
        wanted = tokenizer(row["candidates"][0], add_special_tokens=False).input_ids
        right += written.tolist() == [*wanted, tokenizer.eos_token_id]
    assert result.best_held_out_exact_match == pytest.approx(right / len(rows))
    # Else the comparison says nothing.
    assert right > 0


def test_of_a_soft_target_the_weightiest_answer_is_what_matches(make_job: MakeJob) -> None:
    import numpy as np

    from semievol_ray.training.batches import Sequence

    class Data:
        prompts, shares = [[1, 2], []], [[0.6, 0.3], [1.0]]

        def prompt(self, example: int) -> list[int]:
            return self.prompts[example]

        def candidates_of(self, example: int) -> range:
            return range(2) if example == 0 else range(2, 3)

        def token_weights(self, candidate: int) -> Any:
            return np.array([[0.6, 0.6], [0.3, 0.3], [1.0, 1.0, 0.0]][candidate])

    passes = [Sequence(0, (0, 1), 4), Sequence(1, (2,), 2)]
    data: Any = Data()

    def matches(*right: int) -> int:
        return batches.exact_matches(data, passes, np.array(right, dtype=bool))

    # Of the second, which has no prompt, the first token cannot be told; the last weighs nothing.
    assert matches(1, 1, 0, 0, 1, 0) == 2
    assert matches(1, 0, 1, 1, 1, 0) == 1
    assert matches(0, 0, 1, 1, 0, 1) == 0


def test_metrics_and_the_result_tell_of_both_measures(make_job: MakeJob) -> None:
    job = make_job(held_out=0.25)
    result = train(job, on="process")
    assert result.held_out_loss is not None and result.held_out_exact_match is not None
    last = (job.logs / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["held_out_exact_match"] == result.held_out_exact_match
    assert load_file(result.output_dir / "adapter_model.safetensors")
