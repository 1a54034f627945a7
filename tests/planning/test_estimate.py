"""The arithmetic of a plan, and the watch that it starts from."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.cli import main
from semievol_ray.config import Config, TrainingConfig
from semievol_ray.config_file import load_config
from semievol_ray.engines import FleetState
from semievol_ray.planning import Line, Measured, Plan, Size, estimate, fleet, plan_lines, stopwatch
from semievol_ray.planning.probe import _few_steps, _smaller
from semievol_ray.progress import Silent
from semievol_ray.sources.planner import plan_shard_rows

MEASURED = Measured(
    labels=400,
    rows=32,
    voters=4,
    training_start=20.0,
    step_seconds=0.5,
    replica_start=10.0,
    row_seconds=0.2,
    selected_share=0.5,
    row_tokens=1000.0,
    row_cost=0.002,
    row_bytes=2000.0,
    model_bytes=1 << 30,
)
SIZE = Size(
    unlabeled=100_000, test=500, replicas=8, gpus_per_replica=1, training_gpus=8, shard_rows=1000
)


def config_of(**sections: Any) -> Config:
    values: dict[str, Any] = {"run_dir": "r", "model": {"name": "m"}, "task": {"kind": "label"}}
    values["data"] = {"labeled": "l", "unlabeled": "u", "test": "t"}
    return load_config(values | sections)


def line(plan: Plan, stage: str) -> Line:
    (found,) = [x for x in plan.lines if x.stage == stage]
    return found


@pytest.fixture
def evenly(monkeypatch) -> None:
    """Every row takes as long as any other."""
    monkeypatch.setattr(fleet, "_SPREAD", 0.0)


@pytest.mark.usefixtures("evenly")
def test_each_stage_by_hand() -> None:
    plan = estimate(config_of(), MEASURED, SIZE)
    # 400 labels, 2 epochs, 8 a step.
    assert line(plan, "warmup").seconds == 20 + 100 * 0.5
    generate = line(plan, "round-1/generate")
    # A start; six times two shards for each replica; one more for four of them.
    assert generate.seconds == pytest.approx(10 + 6 * 400 + 200)
    assert generate.tokens == 1e8 and generate.cost == pytest.approx(200)
    assert generate.gpu_hours == pytest.approx(8 * generate.seconds / 3600)
    assert line(plan, "round-1/evolve").seconds == 20 + (50_400 * 2 / 8) * 0.5
    # Vanilla, SFT and the evolved one, a quarter of a row's four voters each.
    each = 10 + 500 * 0.05
    assert line(plan, "baselines").seconds == pytest.approx(2 * each)
    assert line(plan, "round-1/evaluate").seconds == pytest.approx(each)
    assert plan.seconds == pytest.approx(sum(x.seconds for x in plan.lines))
    assert plan.storage_bytes == 2000 * 100_000


@pytest.mark.parametrize(
    ("shards", "replicas", "alone"),
    # Held two at a time, each at half the speed: 3 over 2 are two pairs' worth, the pair and what
    # comes after it.
    [(1, 1, 1), (2, 1, 2), (1, 8, 1), (8, 8, 1), (3, 2, 2), (16, 8, 2), (17, 8, 3), (100, 8, 13)],
)
@pytest.mark.usefixtures("evenly")
def test_a_fleet_by_hand(shards: int, replicas: int, alone: int) -> None:
    found = fleet.fleet_seconds(
        shards * 10, 0.1, shard_rows=10, replicas=replicas, start_seconds=5.0
    )
    assert found == pytest.approx(5 + alone)


def test_a_large_fleet_is_busy_but_for_its_tail() -> None:
    rows, replicas = 2_000_000, 256
    found = fleet.fleet_seconds(
        rows, 0.128, shard_rows=plan_shard_rows(rows, replicas), replicas=replicas, start_seconds=0
    )
    # benchmarks/generation/fleet.py measured 0.953 of it, deaths and loading included.
    assert 0.95 < rows * 0.128 / replicas / found < 0.98
    again = fleet.fleet_seconds(
        10 * rows, 0.128, shard_rows=4096, replicas=replicas, start_seconds=0
    )
    assert 0.94 < 10 * rows * 0.128 / replicas / again < 0.97


@pytest.mark.usefixtures("evenly")
def test_twice_the_rows_are_twice_the_work_and_no_more_starts() -> None:
    one, two = (
        estimate(config_of(), MEASURED, replace(SIZE, unlabeled=n)) for n in (100_000, 200_000)
    )
    first, second = (line(p, "round-1/generate").seconds for p in (one, two))
    # But for how the last shards fall out.
    assert second - first == pytest.approx(100_000 * 0.2 / 8, rel=0.05)


def test_rounds_select_by_their_own_percentiles() -> None:
    config = config_of(
        iteration={"rounds": 2, "mode": "relabel"}, selection={"percentile": [50, 80]}
    )
    plan = estimate(config, MEASURED, SIZE)
    steps = [(line(plan, f"round-{n}/evolve").seconds - 20) / 0.5 for n in (1, 2)]
    assert steps == [(50_000 + 400) / 4, (80_000 + 400) / 4]


def test_what_was_trusted_is_not_asked_again_and_stays_in_the_training() -> None:
    config = config_of(iteration={"rounds": 3, "mode": "mine"})
    plan = estimate(config, MEASURED, SIZE)
    rows = [line(plan, f"round-{n}/generate").tokens / 1000 for n in (1, 2, 3)]
    assert rows == [100_000, 50_000, 25_000]
    steps = [(line(plan, f"round-{n}/evolve").seconds - 20) / 0.5 for n in (1, 2, 3)]
    assert steps == [(n + 400) / 4 for n in (50_000, 75_000, 87_500)]
    assert plan.storage_bytes == 2000 * 175_000


def test_a_step_that_more_workers_share_is_shorter() -> None:
    plan = estimate(config_of(), MEASURED, replace(SIZE, training_speed=4.0))
    assert line(plan, "warmup").seconds == 20 + 100 * 0.5 / 4


def test_a_corpus_of_unknown_size_is_asked_for(tmp_path: Path, capsys) -> None:
    rows = "question,answer\n" + "".join(f"q{i},{'ab'[i % 2]}\n" for i in range(4))
    (tmp_path / "l.csv").write_text(rows)
    with gzip.open(tmp_path / "u.csv.gz", "wt") as packed:
        packed.write("question\nq\n")
    (tmp_path / "c.yaml").write_text(
        f"run_dir: {tmp_path}/run\nmodel: {{name: ./none}}\ntask: {{kind: label}}\n"
        f"data: {{labeled: {tmp_path}/l.csv, unlabeled: {tmp_path}/u.csv.gz}}\n"
    )
    assert main(["plan", str(tmp_path / "c.yaml")]) == 2
    error = capsys.readouterr().err
    assert "say about how many with --rows" in error and len(error.strip().splitlines()) == 1


def test_a_speed_that_is_given_takes_the_place_of_the_probes() -> None:
    size = replace(SIZE, rows_per_second=100.0, replicas=1)
    plan = estimate(config_of(), MEASURED, size)
    assert line(plan, "round-1/generate").seconds == pytest.approx(10 + 1000)


def test_a_whole_model_is_kept_for_each_training() -> None:
    plan = estimate(config_of(training={"method": "full"}), MEASURED, SIZE)
    assert plan.storage_bytes == 2000 * 100_000 + 2 * (1 << 30)


def test_the_table_adds_up() -> None:
    config = config_of()
    plan = estimate(config, MEASURED, SIZE)
    lines = list(plan_lines(config, plan, MEASURED, SIZE))
    assert lines[0].startswith(
        "400 labels, about 100,000 unlabelled and 500 test rows; replicas: 8;"
    )
    together = next(x for x in lines if x.startswith("together"))
    assert "100,000,000" in together and "200.00" in together
    assert "storage 0.2 GiB" in lines[-1]


def test_a_start_is_told_from_the_work(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: clock[0])
    watch = stopwatch.Stopwatch(Silent())
    watch.start("warmup", 8, "steps")
    for clock[0] in (12.0, 14.0, 16.0, 18.0):
        watch.advance("warmup", 1)
    clock[0] = 25.0
    watch.finish("warmup", "25 s")
    lap = watch.laps["warmup"]
    assert (lap.start_seconds, lap.unit_seconds, lap.work_seconds) == (0, 2, 25)
    clock[0] = 100.0
    watch.start("generate", 4, "responses")
    clock[0] = 105.0
    watch.fleet("generate", FleetState(0, 1, 4, 0, 0, 0))
    clock[0] = 108.0
    watch.fleet("generate", FleetState(1, 0, 4, 0, 0, 0))
    clock[0] = 120.0
    watch.finish("round-1/generate", "20 s")
    lap = watch.laps["generate"]
    assert (lap.start_seconds, lap.work_seconds) == (8, 12)


@pytest.mark.parametrize("rows", ["-3", "0", "1.5", "many", "3X", "1e99"])
def test_a_number_of_rows_that_is_none_is_one_line(rows: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "semievol.yaml", f"--rows={rows}"])
    assert caught.value.code == 2 and "--rows" in capsys.readouterr().err


def test_what_would_stop_a_run_stops_its_plan(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(
        f"run_dir: {tmp_path}/run\nmodel: {{name: ./none}}\ntask: {{kind: label}}\n"
        f"data: {{labeled: {tmp_path}/no.csv, unlabeled: {tmp_path}/no.csv}}\n"
    )
    assert main(["plan", str(tmp_path / "c.yaml"), "--rows", "100M"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_what_the_labels_choose_is_planned_too() -> None:
    auto = {"training": {"learning_rate": "auto", "epochs": "auto"}, "tuning": {"folds": 2}}
    plan, given = estimate(config_of(**auto), MEASURED, SIZE), estimate(config_of(), MEASURED, SIZE)
    lines = {line.stage: line.seconds for line in plan.lines}
    # Three rates for 3 epochs, then 6, 12 and 24: 51 of four fifths of the labels, on each fold.
    batch = TrainingConfig().global_batch_size
    steps = [math.ceil(0.8 * MEASURED.labels * n / batch) for n in (3, 3, 3, 6, 12, 24)]
    seconds = sum(MEASURED.training_start + n * MEASURED.step_seconds for n in steps)
    assert lines["tune"] == pytest.approx(2 * seconds)
    assert lines.keys() - {line.stage for line in given.lines} == {"tune"}


def test_a_probe_tries_nothing_and_continues_nothing() -> None:
    config = config_of(
        continues="runs/earlier",
        training={"learning_rate": "auto", "epochs": "auto"},
        tuning={"learning_rates": [1e-3]},
    )
    values = _few_steps(_smaller(config, "runs/probe", 8), config, 24, 8)
    small = load_config(values)
    assert small.continues is None and not small.tunes


def test_each_warm_up_takes_its_time() -> None:
    one = estimate(config_of(), MEASURED, SIZE)
    three = config_of(collaborators=[{"model": m} for m in ("warm", "warm-2", "warm-3")])
    found = line(estimate(three, MEASURED, SIZE), "warmup")
    steps = line(one, "warmup").seconds - MEASURED.training_start
    assert found.seconds - MEASURED.training_start == pytest.approx(3 * steps, rel=0.05)
