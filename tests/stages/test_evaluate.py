"""Intervals, paired tests and the comparison of models, against other people's formulas."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pyarrow as pa
import pytest
from scipy.stats import binomtest

from semievol_ray.config_file import load_config
from semievol_ray.results import metric_lines
from semievol_ray.schema import PREDICTION
from semievol_ray.stages.evaluate import RightAnswers, as_good_as_evolved, compare, references
from semievol_ray.stages.statistics import (
    mcnemar_exact,
    paired_by_rows,
    paired_interval,
    wilson_interval,
)
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task


def predictions(right: str, gold: str = "ABAB") -> pa.Table:
    """A digit for each row: 1 is right; x is no answer."""
    rows = [
        {
            "example_id": str(i),
            "answer": None if digit == "x" else gold[i] if digit == "1" else "Z",
            "gold": gold[i],
            "subject": "even" if i % 2 == 0 else "odd",
            "correct": digit == "1",
        }
        for i, digit in enumerate(right)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in PREDICTION]))


def test_mcnemar_counts_the_rows_that_two_models_differ_on() -> None:
    first = [True] * 10 + [False] * 4 + [True] * 86
    second = [False] * 10 + [True] * 4 + [True] * 86
    only_first, only_second, p = mcnemar_exact(first, second)
    assert (only_first, only_second) == (10, 4)
    # Twice the tail of 14 tosses of a coin.
    assert p == pytest.approx(2 * sum(math.comb(14, k) for k in range(5)) / 2**14)
    assert mcnemar_exact(first, first) == (0, 0, 1.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        mcnemar_exact([True, True], [True])


def test_rows_that_come_back_with_every_seed_are_not_more_rows() -> None:
    rng = random.Random(0)
    first, second = ([rng.random() < p for _ in range(60)] for p in (0.5, 0.75))
    one = paired_by_rows([(first, second)])
    assert one == pytest.approx(mcnemar_exact(first, second)[2])
    # Three seeds that say the same say no more than one.
    assert paired_by_rows([(first, second)] * 3) == pytest.approx(one)
    assert mcnemar_exact(first * 3, second * 3)[2] < one / 10
    # Two rows of gain 2 and 1, by all four signs: |2 + 1| is reached by two.
    pairs = [([False, False], [True, True]), ([False, True], [True, True])]
    assert paired_by_rows(pairs) == pytest.approx(0.5)
    assert paired_by_rows([(first, first)]) == 1.0


@pytest.mark.parametrize(("correct", "rows"), [(0, 10), (10, 10), (7, 20), (430, 453)])
def test_wilsons_interval_is_his(correct: int, rows: int) -> None:
    peer = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, rows, 0.95) == pytest.approx((peer.low, peer.high))


def test_models_are_compared_pair_by_pair() -> None:
    found = compare(
        {
            "vanilla": predictions("0x01"),
            "SFT": predictions("1101"),
            "evolved": predictions("1111"),
        },
        0.95,
    )
    assert {n: m["accuracy"] for n, m in found["models"].items()} == {
        "vanilla": 0.25, "SFT": 0.75, "evolved": 1.0,
    }  # fmt: skip
    assert found["models"]["vanilla"]["unparsed"] == 1
    assert found["models"]["SFT"]["per_class"]["A"]["accuracy"] == 0.5
    assert found["models"]["SFT"]["per_subject"]["odd"]["correct"] == 2
    pairs = {(p["first"], p["second"]): p for p in found["pairs"]}
    assert list(pairs) == [("vanilla", "SFT"), ("vanilla", "evolved"), ("SFT", "evolved")]
    first = pairs["vanilla", "SFT"]
    assert (first["only_first_right"], first["only_second_right"]) == (0, 2)
    assert first["difference"] == 0.5 and first["mcnemar_p"] == pytest.approx(0.5)


def test_a_classifier_that_is_as_good_is_said_first() -> None:
    evolved, gold = "1" * 30 + "0" * 10, "A" * 40
    equal = "0" * 4 + "1" * 26 + "1" * 2 + "0" * 8
    worse = "0" * 6 + "1" * 24 + "0" * 10
    models = {"SFT": equal, "SemiEvol": evolved, "probe, refitted": equal, "near, refitted": worse}
    found = compare({name: predictions(right, gold) for name, right in models.items()}, 0.95)
    # Four lost and two won are chance, six lost and none won are none; SFT is no classifier.
    assert as_good_as_evolved(found) == {
        "probe, refitted": "no worse than by chance (McNemar p = 0.69)"
    }
    first, second, *_ = metric_lines(found)
    assert first == "probe, refitted: 70.0% right, SemiEvol 75.0%"
    assert "McNemar p = 0.69" in second and "classifier" in second


def test_a_paired_interval_holds_the_difference_as_often_as_it_says() -> None:
    rng = random.Random(0)
    held, draws, truth = 0, 1000, 0.15 - 0.1
    for _ in range(draws):
        # Of 60 rows 10 % are the first's alone, 15 % the second's alone.
        kinds = rng.choices(("first", "second", "both"), (0.1, 0.15, 0.75), k=60)
        low, gain, high = paired_interval(
            [k != "second" for k in kinds], [k != "first" for k in kinds], 0.95
        )
        assert low <= gain <= high
        held += low <= truth <= high
    assert 0.93 <= held / draws <= 0.985


def test_a_paired_interval_of_equals_holds_nothing_but_chance() -> None:
    low, gain, high = paired_interval([True, False], [True, False], 0.95)
    assert low == -high and gain == 0 and -1 <= low < 0


def test_each_reference_has_a_name_of_its_own(tmp_path: Path) -> None:
    named = {
        "data": {"labeled": "l", "unlabeled": "u"},
        "run_dir": str(tmp_path),
        "model": {"name": "m"},
        "evaluation": {"references": [{}, {"embedder": "sentence-transformers", "model": "a/b/"},
                                      {"embedder": "sentence-transformers", "model": "c"},
                                      {"embedder": "model"}]},
    }  # fmt: skip
    found = references(load_config(named))
    assert list(found) == ["TF-IDF + LR", "sentences + LR", "c (2) + LR", "hidden states + LR"]
    assert len({model.base.name for model in found.values()}) == 4
    assert found["hidden states + LR"].base.engine_options["model"] == "m"


def test_answers_that_nobody_knows_are_not_wrong(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    ids = ["a", "b", "c"]
    shard, aside = "select/shard-00000.parquet", "ingest/withheld/shard-00000.parquet"
    selection = {
        "example_id": ids,
        "pseudo_answer": ["x", "y", "x"],
        "selected": [True, True, False],
    }
    run.write_table(shard, pa.table(selection))
    run.write_table(aside, pa.table({"example_id": ids, "answer": ["x", None, "y"]}))
    task = Task(kind="label", instruction="", question_template="", labels=("x", "y"))
    found = RightAnswers(run, task, "select")(aside)
    assert found == {"rows": 2, "correct": 1, "selected": 1, "selected_correct": 1}
