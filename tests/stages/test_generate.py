"""Generate and justify over a simulated engine, on real Ray: one pass, its budget, its counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from semievol_ray import UserError
from semievol_ray.config_file import load_config
from semievol_ray.stages import generate, ingest, justify
from semievol_ray.stages.context import Context
from semievol_ray.stages.stage import Outcome
from semievol_ray.store import RunDirectory, StageLedger
from tests.stages.test_limits import Told

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]

ROWS = 60
JUSTIFIED = "round-1/justify/attempt-1"


@pytest.fixture
def new_context(tmp_path) -> Iterator[callable]:
    """Contexts of one run: an ingested corpus of four shards."""
    made: list[Context] = []

    def new(run: str = "run", **sections) -> Context:
        values = {
            "run_dir": str(tmp_path / run),
            "model": {"name": "sim", "engine": "simulated"},
            "task": {"kind": "label", "labels": ["A", "B", "C", "D"]},
            "data": {
                "labeled": write(tmp_path / "labeled.csv", 4),
                "unlabeled": write(tmp_path / "unlabeled.csv", ROWS),
                "shard_rows": 15,
            },
            "retrieval": {"k": 0},
            "collaborators": [{"model": "warm"}, {"model": "warm"}],
            # The simulated engine knows no weights: those of a warm model of its own are its name.
            "training": {"method": "lora"},
        } | sections
        for other in made:  # two CPUs do not hold every context's replicas
            other.release_engines()
        config = load_config(values)
        directory = RunDirectory(config.run_dir)
        context = Context(config, directory, StageLedger(directory))
        if context.ledger.get("ingest") is None:
            context.ledger.begin("ingest", {}, {})
            done = ingest.run(context, 1)
            context.ledger.finish("ingest", done.outputs, (), done.statistics, 0)
            for stage in ("warmup", "round-1/generate", "round-1/justify"):
                context.ledger.begin(stage, {}, {})
        made.append(context)
        return context

    yield new
    for context in made:
        context.release_engines()


def write(path: Path, rows: int) -> str:
    lines = [f"{path.stem} {i} asks for something,{'ABCD'[i % 4]}\n" for i in range(rows)]
    path.write_text("question,answer\n" + "".join(lines))
    return str(path)


def tables(context: Context) -> dict[str, bytes]:
    root = Path(context.run.path) / "round-1"
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.parquet"))}


def answer(context: Context) -> Outcome:
    wanted = justify.STAGE.wanted(context.config)
    context.along = justify.along(context, 1) if wanted else None  # as the pipeline does
    return generate.run(context, 1)


def run_both(context: Context) -> tuple[Outcome, Outcome]:
    return answer(context), justify.run(context, 1)


def test_replicas_that_host_the_warm_model_justify_at_once(new_context) -> None:
    one_pass = new_context("one-pass")
    answer(one_pass)
    justified = one_pass.run.files(JUSTIFIED, ".parquet")
    assert len(justified) == 4
    # A pass of its own gives the same bytes and the same counts.
    two_passes = new_context("two-passes")
    context = new_context("two-passes", justify={"when": "never"})
    answer(context)
    assert not two_passes.run.files(JUSTIFIED, ".parquet")
    apart = justify.run(two_passes, 1)
    together = justify.run(one_pass, 1)
    assert tables(one_pass) == tables(two_passes)
    assert apart.statistics == together.statistics
    assert together.statistics["rows"] == ROWS


def test_a_second_base_model_leaves_justification_to_a_pass_of_its_own(new_context) -> None:
    voters = [{"model": "warm"}, {"model": "other"}]
    other = {"other": {"name": "sim2", "engine": "simulated"}}
    context = new_context(collaborators=voters, models=other)
    generated = answer(context)
    assert not context.run.files(JUSTIFIED, ".parquet")
    assert generated.statistics["rows"] == 2 * ROWS
    assert justify.run(context, 1).statistics["rows"] == ROWS


def test_a_budget_ends_the_work_and_keeps_what_is_paid(new_context) -> None:
    whole = new_context("whole")
    spent = sum(outcome.statistics["spent_tokens"] for outcome in run_both(whole))
    half = new_context("half", generation={"budget": {"tokens": spent // 2}})
    with pytest.raises(UserError, match=r"budget is spent.*shards are left"):
        run_both(half)
    kept = tables(half)
    assert 0 < len(kept) < len(tables(whole))
    with pytest.raises(UserError, match="budget is spent"):
        run_both(new_context("half", generation={"budget": {"tokens": spent // 2}}))
    assert tables(half) == kept, "a spent budget was spent again"
    again = new_context("half", generation={"budget": {"tokens": spent + 1}})
    outcomes = run_both(again)
    assert tables(again) == tables(whole)
    assert sum(outcome.statistics["spent_tokens"] for outcome in outcomes) == spent


def test_requests_without_an_answer_are_said_of_each_voter(new_context) -> None:
    model = {"name": "sim", "engine": "simulated", "engine_options": {"failure_rate": 0.3}}
    context = new_context(model=model)
    context.progress = told = Told()
    outcome = answer(context)
    assert outcome.statistics["failed"] > 0
    lost = [line for line in told.lines if "stayed without an answer" in line]
    assert [line.split(":")[2].strip() for line in lost] == outcome.statistics["collaborators"]
    counts = [int(line.split(":")[3].split(" of ")[0]) for line in lost]
    assert sum(counts) == outcome.statistics["failed"]
    assert all(f"of {ROWS} requests" in line for line in lost)


def test_money_is_counted_at_the_models_price(new_context) -> None:
    model = {"name": "sim", "engine": "simulated", "price": {"prompt": 2.0, "response": 10.0}}
    generated, _ = run_both(new_context(model=model))
    found = generated.statistics
    cost = (2 * found["prompt_tokens"] + 10 * found["tokens"]) / 1e6
    assert found["spent_cost"] == pytest.approx(cost)


def test_what_was_there_before_is_counted(new_context) -> None:
    first = run_both(new_context())
    assert [o.statistics for o in run_both(new_context())] == [o.statistics for o in first]


def test_a_classifier_votes_beside_a_language_model(new_context, tmp_path) -> None:
    labeled = tmp_path / "many.csv"
    words = {"A": "parcel late", "B": "refund money", "C": "broken screen", "D": "opening hours"}
    rows = [f"{words[k]} number {i},{k}\n" for i in range(10) for k in words]
    labeled.write_text("question,answer\n" + "".join(rows))
    unlabeled = tmp_path / "asked.csv"
    unlabeled.write_text("question\nis my parcel late\nthe screen is broken\nwhich hours\n")
    context = new_context(
        data={"labeled": str(labeled), "unlabeled": str(unlabeled)},
        collaborators=[{"model": "warm"}, {"model": "probe"}],
    )
    answer(context)
    folder = context.folder("round-1/generate")
    (name,) = context.run.files(folder, ".parquet")
    table = context.run.read_table(name).to_pylist()
    said = [row["answer"] for row in table if row["collaborator"] == "probe-0shot"]
    assert said == ["A", "C", "D"]
    assert all(len(row["option_logprobs"]) == 4 for row in table)
