"""Plans and batches without a model: who computes what, and what the tensors say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray.tokens import shared_opening
from semievol_ray.training import batches, data
from semievol_ray.training.batches import Layout
from semievol_ray.training.token_cache import TokenizedExamples

PACKED = Layout(packed=True, micro_batch_size=2, max_length=16)
PADDED = Layout(packed=False, micro_batch_size=2, max_length=16)


def tokens(seed: int = 0, rows: int = 40) -> TokenizedExamples:
    random = np.random.default_rng(seed)
    table: dict[str, list[Any]] = {name: [] for name in data.TOKENIZED.names}
    for row in range(rows):
        table["prompt"].append(random.integers(3, 99, random.integers(1, 10)).tolist())
        answers = 1 + row % 3
        table["candidates"].append(
            [[*random.integers(3, 99, random.integers(1, 4)).tolist(), 1] for _ in range(answers)]
        )
        table["weights"].append(
            [random.random(len(answer)).tolist() for answer in table["candidates"][-1]]
        )
        table["example_hash"].append(row * 1_000_003)
        table["truncated"].append(False)
        table["too_long_id"].append(None)
        table["too_long_tokens"].append(None)
    # Two chunks, as of two files.
    made = pa.table(table, schema=data.TOKENIZED)
    half = rows // 2
    return TokenizedExamples(
        batch for part in (made[:half], made[half:]) for batch in part.combine_chunks().to_batches()
    )


@pytest.mark.parametrize("layout", [PACKED, PADDED])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_plan_holds_every_candidate_once_and_as_many_passes_for_every_worker(
    layout: Layout, workers: int
) -> None:
    examples = tokens()
    batch = batches.batch_of_step(0, len(examples), 12, seed=3)
    plans = batches.plan(examples, batch, layout, workers)
    assert len(plans) == workers
    assert len({len(passes) for passes in plans}) == 1
    planned = Counter(c for w in plans for p in w for s in p for c in s.candidates)
    assert planned == Counter(c for e in batch.tolist() for c in examples.candidates_of(e))
    for sequences in (p for worker in plans for p in worker):
        if layout.packed:
            assert sum(s.length for s in sequences) <= 32
        else:
            assert len(sequences) <= 2


def test_every_epoch_holds_every_example_once_and_its_own_order() -> None:
    per_epoch = batches.steps_per_epoch(10, 4)
    assert per_epoch == 3
    epochs = [
        np.concatenate([batches.batch_of_step(e * 3 + s, 10, 4, seed=1) for s in range(3)])
        for e in range(2)
    ]
    assert [sorted(e.tolist()) for e in epochs] == [list(range(10))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (2.0, 6), (0.5, 2), (0.01, 1), (1 / 3, 1)])
def test_total_steps(epochs: float, steps: int) -> None:
    assert batches.total_steps(10, 4, epochs) == steps


@pytest.mark.parametrize("layout", [PACKED, PADDED])
def test_targets_are_the_answers_each_predicted_from_the_token_before(layout: Layout) -> None:
    examples = tokens()
    for example in range(len(examples)):
        for passes in batches.plan(examples, np.array([example]), layout, 1)[0]:
            micro = batches.collate(examples, passes, layout, pad_id=2)
            expected = [t for s in passes for c in s.candidates for t in examples.candidate(c)]
            assert micro.targets.tolist() == expected
            read = micro.input_ids[micro.rows, micro.columns].tolist()
            before = [
                t
                for s in passes
                for c in s.candidates
                for t in [examples.prompt(s.example)[-1], *examples.candidate(c)[:-1]]
            ]
            assert read == before


def asked_alike(rows: int = 6, opening: int = 8) -> TokenizedExamples:
    """Prompts that open alike, the shortest of which is the opening and one token more."""
    table: dict[str, list[Any]] = {name: [] for name in data.TOKENIZED.names}
    for row in range(rows):
        values = {
            "prompt": [*range(opening), *(100 + 10 * row + k for k in range(1 + row % 3))],
            "candidates": [[50 + row, 51, 3]],
            "weights": [[1.0, 1.0, 0.5]],
            "example_hash": row,
            "truncated": False,
        }
        for name in table:
            table[name].append(values.get(name))
    return TokenizedExamples(pa.table(table, schema=data.TOKENIZED).to_batches())


WIDE = Layout(packed=True, micro_batch_size=8, max_length=16)


def test_what_prompts_open_with_is_read_once() -> None:
    examples = asked_alike()
    (passes,) = batches.plan(examples, np.arange(6), WIDE, 1)[0]
    micro = batches.collate(examples, passes, WIDE, pad_id=2)
    plain = batches.collate(examples, passes, WIDE._replace(shares_opening=False), pad_id=2)
    assert (micro.opening, plain.opening) == (8, 0)
    assert plain.tokens - micro.tokens == 5 * 8 and micro.input_ids.shape == (1, micro.tokens)
    assert micro.targets.tolist() == plain.targets.tolist()
    for name in ("input_ids", "position_ids"):
        where = (getattr(m, name)[m.rows, m.columns].tolist() for m in (micro, plain))
        assert next(where) == next(where)
    # What a sequence reads is the opening and its own segment.
    for segment in range(6):
        own = micro.input_ids[0][8:][micro.segments[0][8:] == segment].tolist()
        whole = plain.input_ids[0][plain.segments[0] == segment].tolist()
        assert micro.input_ids[0][:8].tolist() + own == whole


def test_an_opening_that_saves_little_is_not_shared() -> None:
    examples = asked_alike(rows=4, opening=1)
    (passes,) = batches.plan(examples, np.arange(4), WIDE, 1)[0]
    assert batches.collate(examples, passes, WIDE, pad_id=2).opening == 1
    # One of 21 and more tokens a prompt is no eighth, nor is one beside long answers.
    prompts = [[0, *range(start, start + 20)] for start in (10, 40, 70)]
    assert shared_opening(prompts) == 0
    assert shared_opening([[0, 1], [0, 2]]) == 1 and shared_opening([[0, 1], [0, 2]], [9, 9]) == 0
    # One sequence has nobody to share with.
    assert batches.collate(examples, passes[:1], WIDE, pad_id=2).opening == 0
    rare = batches.collate(tokens(), batches.plan(tokens(), np.arange(6), WIDE, 1)[0][0], WIDE, 2)
    assert rare.opening == 0


def test_beside_a_long_row_nothing_is_shared() -> None:
    """Attention is given a padded row a sequence."""
    short, long = asked_alike(), asked_alike(rows=1, opening=60)
    pieces = [batches._Piece(short, s) for s in batches.plan(short, np.arange(6), WIDE, 1)[0][0]]
    (alone,) = batches.plan(long, np.arange(1), WIDE, 1)[0]
    assert batches._opening(pieces) == 8
    assert batches._opening([*pieces, batches._Piece(long, alone[0])]) == 0


def test_an_empty_pass_weighs_nothing() -> None:
    micro = batches.collate(tokens(), [], PACKED, pad_id=2)
    assert micro.weights.sum() == 0 and micro.tokens == 0


def test_target_weight_is_the_sum_of_the_targets_weights() -> None:
    examples = tokens()
    batch = np.arange(10)
    total = sum(
        float(batches.collate(examples, p, PACKED, 2).weights.sum())
        for p in batches.plan(examples, batch, PACKED, 1)[0]
    )
    assert examples.target_weight(batch) == pytest.approx(total)


@pytest.mark.parametrize("layout", [PACKED, PADDED])
def test_an_exact_match_is_of_the_likeliest_answer_however_long_the_others_are(
    layout: Layout,
) -> None:
    row = {
        "prompt": [5, 6, 7],
        "candidates": [[10, 1], [20, 21, 22, 23, 1]],
        "weights": [[0.7] * 2, [0.3] * 5],
        "example_hash": 0,
        "truncated": False,
    }
    table = {name: [row.get(name)] for name in data.TOKENIZED.names}
    examples = TokenizedExamples(pa.table(table, schema=data.TOKENIZED).to_batches())
    for likeliest, matches in ((True, 1), (False, 0)):
        found = 0
        for sequences in batches.plan(examples, np.arange(1), layout, 1)[0]:
            of_likeliest = [
                c == 0 for s in sequences for c in s.candidates for _ in row["weights"][c]
            ]
            found += batches.exact_matches(examples, sequences, np.array(of_likeliest) == likeliest)
        assert found == matches


def test_a_model_with_dropout_of_its_own_is_known_by_it() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from semievol_ray.training.engine import drops_out

    small: dict[str, Any] = {"vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16}
    assert drops_out(GPT2LMHeadModel(GPT2Config(n_embd=16, n_positions=16, **small)))
    none: dict[str, Any] = {
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "summary_first_dropout": 0.0,
    }
    assert not drops_out(GPT2LMHeadModel(GPT2Config(n_embd=16, n_positions=16, **small, **none)))
    assert not drops_out(LlamaForCausalLM(LlamaConfig(**small, **llama)))
    assert drops_out(LlamaForCausalLM(LlamaConfig(**small, **llama, attention_dropout=0.1)))
