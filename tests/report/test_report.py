"""The figures of the report against plain counting, and where it is written."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import UserError
from semievol_ray.cli import main
from semievol_ray.comparing.outcome import Cost, Outcome, as_json
from semievol_ray.report import accuracy, sections, write_report
from semievol_ray.report.corpus import Bin, Corpus, Voter, binned, calibration_error, look_through
from semievol_ray.report.examples import worth_labelling
from semievol_ray.results import Run
from semievol_ray.stages.run_view import RunView
from semievol_ray.store import StageLedger
from tests.report.making import VOTERS, Made, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make_run(tmp_path_factory.mktemp("made"))


def view_of(run: Run) -> RunView:
    return RunView(run.config(), run.directory, StageLedger(run.directory))


def vote(votes: dict[str, str | None], without: str | None = None) -> str | None:
    """The plain vote; ties go to the answer given first, for all are as likely."""
    said = [a for who, a in votes.items() if a and who != without]
    return max(dict.fromkeys(said), key=said.count, default=None)


def test_voters_are_left_out_one_by_one(made: Made) -> None:
    corpus = look_through(view_of(made.run), 1)
    assert list(corpus.voters) == list(VOTERS) and corpus.known == len(made.truth)
    for name, voter in corpus.voters.items():
        own = {i: votes[name] for i, votes in made.votes.items()}
        assert voter.responses == len(own)
        assert voter.answers == sum(a is not None for a in own.values())
        assert voter.right == sum(a == made.truth[i] for i, a in own.items())
        with_it = {i: vote(v) for i, v in made.votes.items()}
        without = {i: vote(v, name) for i, v in made.votes.items()}
        right = {i: (with_it[i] == t, without[i] == t) for i, t in made.truth.items()}
        assert voter.won == sum(a and not b for a, b in right.values())
        assert voter.lost == sum(b and not a for a, b in right.values())
        assert voter.changed == sum(with_it[i] != without[i] for i in with_it)
    assert corpus.vote_right == sum(vote(v) == made.truth[i] for i, v in made.votes.items())


def test_a_voter_that_is_often_silent_is_measured_by_all_rows_as_the_vote_is() -> None:
    some = {"sure": Voter(10, 10, right=8), "silent": Voter(10, 2, right=2)}
    corpus = Corpus(pa.table({}), 10, 10, some, known=10, vote_right=9)
    table = sections.voters(corpus)
    at = table.header.index("right alone, of all rows with a known truth")
    assert [row[at] for row in table.rows] == ["80.0\u00a0%", "20.0\u00a0%", "90.0\u00a0%"]


def test_pairs_of_voters_agree_as_often_as_counted(made: Made) -> None:
    corpus = look_through(view_of(made.run), 1)
    for a in VOTERS:
        for b in VOTERS:
            both = [(v[a], v[b]) for v in made.votes.values() if v[a] and v[b]]
            assert corpus.both[a, b] == len(both)
            assert corpus.equal[a, b] == sum(x == y for x, y in both)


def test_without_truth_the_vote_is_said_to_change(tmp_path: Path) -> None:
    found = make_run(tmp_path, truth=False, tests=0)
    corpus = look_through(view_of(found.run), 1)
    assert not corpus.has_truth
    assert sections.voters(corpus).header[-1] == "answers of the vote that change without it"
    text = Path(write_report(found.run).html).read_text()
    assert "what it gained is not known" in text and "right and wrong" not in text


def test_the_funnel_narrows_to_what_was_trained_on(made: Made) -> None:
    manifests = {m.stage: m for m in made.run.manifests}
    table = sections.funnel(manifests, look_through(view_of(made.run), 1), 1)
    counts = [int(row[1].replace(",", "")) for row in table.rows]
    voted = [[a for a in v.values() if a] for v in made.votes.values()]
    assert counts == [
        60, 60, 60, 60, sum(bool(said) for said in voted),
        sum(len(said) > 1 and len(set(said)) == 1 for said in voted),
        sum(made.selected.values()), sum(made.selected.values()),
    ]  # fmt: skip


def test_of_a_large_corpus_shards_are_looked_at_that_lie_evenly_in_it(made: Made) -> None:
    corpus = look_through(view_of(made.run), 1, most_rows=40)
    assert corpus.is_sample and corpus.all_rows == 60
    assert set(corpus.rows["example_id"].to_pylist()) < set(made.truth)


def test_bins_hold_every_value_once() -> None:
    values = np.array([0.0, 0.1, 0.5, 0.999, 1.0, 1.0])
    right = np.array([True, False, True, True, True, False])
    found = binned(values, right, [0.0, 0.5, 1.0])
    assert [(b.rows, b.right) for b in found] == [(2, 1), (4, 3)]
    assert sum(b.rows for b in binned(values, right, np.linspace(0, 1, 11).tolist())) == 6


def test_a_calibrated_model_has_no_calibration_error() -> None:
    assert calibration_error([Bin(0, 1, 10, 0.7, 7), Bin(0, 1, 4, 0.5, 2)]) == pytest.approx(0)
    # Sure of all ten, right of six; and 20 rows that are as sure as right.
    bins = [Bin(0.9, 1, 10, 1.0, 6), Bin(0, 0.9, 20, 0.5, 10)]
    assert calibration_error(bins) == pytest.approx(4 / 30)


def test_confusions_count_every_test_row(made: Made) -> None:
    for table in accuracy.confusions(made.run):
        counts = [int(cell) for row in table.rows for cell in row[1:]]
        assert sum(counts) == 80
    after = accuracy.confusions(made.run)[1]
    diagonal = sum(int(row[1 + i]) for i, row in enumerate(after.rows))
    assert diagonal == sum(made.right["SemiEvol"])


def test_of_many_classes_the_commonest_errors_are_told(tmp_path: Path) -> None:
    many = make_run(tmp_path, classes=tuple(f"class {i}" for i in range(40)), tests=400)
    (table,) = accuracy.confusions(many.run)
    before = many.run.predictions("SFT")
    pairs = zip(before["gold"].to_pylist(), before["answer"].to_pylist(), strict=True)
    counted = Counter(p for p in pairs if p[0] != p[1])
    for gold, said, sft, _ in table.rows:
        assert int(sft) == counted[gold, said]
    assert len(accuracy.changes(many.run, "gold")) == 30


def test_gains_by_class_lie_in_their_intervals(made: Made) -> None:
    gains = accuracy.changes(made.run, "gold")
    assert [name for name, *_ in gains] == ["blue", "green", "red"]
    assert all(low < gain < high for _, low, gain, high in gains)
    before, after = made.run.predictions("SFT"), made.run.predictions("SemiEvol")
    for name, _, gain, _ in gains:
        rows = [i for i, g in enumerate(before["gold"].to_pylist()) if g == name]
        points = [sum(t["correct"][i].as_py() for i in rows) for t in (before, after)]
        assert gain == pytest.approx(100 * (points[1] - points[0]) / len(rows))


def test_rows_worth_labelling_are_unsure_unselected_and_differ(tmp_path: Path) -> None:
    found = make_run(tmp_path, rows=300, question=lambda i: f"about {i % 7} things of kind {i % 5}")
    corpus = look_through(view_of(found.run), 1)
    rows = worth_labelling(found.run, corpus, 1)
    ids = [row.values["example_id"] for row in rows]
    questions = [row.values["question"] for row in rows]
    assert not any(found.selected[i] for i in ids)
    assert len(set(questions)) == len(questions)
    most = max(r["vote_entropy"] for r in corpus.rows.to_pylist() if not r["selected"])
    assert rows[0].values["vote_entropy"] == most


def test_the_csv_holds_them_and_no_formula(tmp_path: Path) -> None:
    found = make_run(tmp_path, question=lambda i: f"=SUM({i}) ünï", tests=0)
    report = write_report(found.run)
    with Path(report.csv).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["question"].startswith("'=SUM(") for row in rows)
    assert not any(found.selected[row["example_id"]] for row in rows)


def test_a_report_is_written_over_and_nobody_elses_file_is(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine.html"
    for _ in range(2):
        assert main(["report", made.run.uri, "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.html", "mine.worth-labelling.csv"]
    output.write_text("a letter of mine")
    assert main(["report", made.run.uri, "--output", str(output)]) == 2
    assert "it is none of ours" in capsys.readouterr().err
    assert output.read_text() == "a letter of mine"
    assert main(["report", made.run.uri, "--output", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_goes_on_with_its_report_in_it(made: Made) -> None:
    write_report(made.run)
    made.run.directory.check_claimable()
    assert Path(made.run.uri, "report.html").is_file()


def test_a_run_that_selected_nothing_is_one_line(tmp_path: Path) -> None:
    from tests.stages.ingesting import ingested

    rows = "id,question,answer\nl,a,red\n"
    context = ingested(tmp_path, {"model": {"name": "x"}}, rows, "id,question\nu,b\n")
    with pytest.raises(UserError, match="nothing was selected yet"):
        write_report(Run(context.run.uri))


def test_another_run_is_compared_over_the_rows_in_common(made: Made, tmp_path: Path) -> None:
    other = make_run(tmp_path, tests=50, seed=3)
    table = accuracy.other_runs(made.run, [other.run])
    ((uri, rows, *_),) = table.rows
    assert (uri, rows) == (other.run.uri, "50")


def test_a_comparison_is_set_beside_a_run(made: Made, tmp_path: Path) -> None:
    found = Outcome()
    for arm, model in (("sft", "SFT"), ("config", "SemiEvol")):
        found.add(arm, 0, made.run.predictions(model), Cost(3.0, 5, 0.0))
    (tmp_path / "compare.json").write_text(json.dumps(as_json(found)))
    output = tmp_path / "page.html"
    write_report(made.run, [str(tmp_path)], output)
    gain = sum(made.right["SemiEvol"]) - sum(made.right["SFT"])
    assert "Arms beside each other" in output.read_text()
    assert f"{100 * gain / 80:+.1f}" in output.read_text()


def test_what_is_no_run_is_not_set_beside_one(made: Made, tmp_path: Path, capsys) -> None:
    assert main(["report", made.run.uri, "--compare", str(tmp_path / "none")]) == 2
    assert "no run here" in capsys.readouterr().err
