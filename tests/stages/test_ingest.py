"""Ingest: real dirt is read, bad rows are put aside with a reason, nothing is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import UserError
from semievol_ray.stages.asked_of_task import check_test_answers, labels_without_rows
from tests.stages.ingesting import Heard, ingest, write_csv, write_jsonl, write_parquet

FPB_COLUMNS = {"question": "question", "options": "options", "answer": "answer"}


@pytest.fixture
def small(tmp_path) -> dict[str, Path]:
    labeled = [{"text": f"labelled {i}", "label": "ab"[i % 2]} for i in range(4)]
    unlabeled = [{"text": f"unlabelled {i}", "label": "a"} for i in range(10)]
    return {
        "labeled": write_csv(tmp_path / "labeled.csv", labeled),
        "unlabeled": write_csv(tmp_path / "unlabeled.csv", unlabeled),
    }


@pytest.mark.parametrize("name", ["fpb", "arc"])
def test_published_splits_lose_nothing(published, tmp_path, name) -> None:
    folder = published / name
    columns = FPB_COLUMNS | ({"id": "id"} if name == "arc" else {})
    files = [folder / f"{split}.csv" for split in ("labeled", "unlabeled", "test")]
    run = ingest(tmp_path, *files, task={"preset": name}, columns=columns)
    found = run.manifests[0].statistics
    assert found["bad_rows"] == 0
    for split, file in zip(("labeled", "unlabeled", "test"), files, strict=True):
        with file.open(newline="") as source:
            in_file = sum(1 for _ in csv.DictReader(source))
        lost = found["repeated_rows"][split] + found["contaminated_rows"][split]
        lost += found["already_labeled_rows"] if split == "unlabeled" else 0
        assert found["rows"][split] + lost == in_file
        assert in_file
    answers = set(run.examples("labeled")["answer"].to_pylist())
    assert answers <= set("ABCDE")
    # What the corpus says of its own answers is withheld from every example.
    unlabeled = run.examples("unlabeled")
    assert unlabeled["answer"].null_count == len(unlabeled)


def test_arcs_numbered_answers_become_letters(published, tmp_path) -> None:
    folder = published / "arc"
    with (folder / "unlabeled.csv").open(newline="") as source:
        raw = {row["id"]: row["answer"] for row in csv.DictReader(source)}
    numbered = {i: a for i, a in raw.items() if a in "1234"}
    assert numbered, "the data no longer holds the dirt that this test is about"
    files = [folder / f"{split}.csv" for split in ("labeled", "unlabeled", "test")]
    columns = FPB_COLUMNS | {"id": "id"}
    run = ingest(tmp_path, *files, task={"preset": "arc"}, columns=columns)
    names = run.directory.files("ingest/attempt-1/withheld", ".parquet")
    withheld = [row for name in names for row in run.directory.read_table(name).to_pylist()]
    rows = {row["example_id"]: row["answer"] for row in withheld}
    for example_id, answer in numbered.items():
        assert rows[example_id] == "ABCD"[int(answer) - 1]


def test_shards_ids_and_order_are_stable(small, tmp_path) -> None:
    first = ingest(tmp_path / "1", **small, shard_rows=4)
    second = ingest(tmp_path / "2", **small, shard_rows=4)
    names = [name for name in first.manifests[0].outputs if "unlabeled" in name]
    assert len(names) == 3
    for name in first.manifests[0].outputs:
        both = [Path(run.directory.full_path(name)).read_bytes() for run in (first, second)]
        assert both[0] == both[1]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder", "glob", "gz"])
def test_every_kind_of_file(small, tmp_path, kind) -> None:
    rows = [{"text": f"row {i}", "label": "a"} for i in range(6)]
    if kind == "jsonl":
        where = tmp_path / "u.jsonl"
        where.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "gz":
        import gzip

        where = tmp_path / "u.jsonl.gz"
        where.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        (tmp_path / "u").mkdir()
        table = pa.Table.from_pylist(rows)
        pq.write_table(table.slice(0, 3), tmp_path / "u" / "0.parquet")
        pq.write_table(table.slice(3), tmp_path / "u" / "1.parquet")
        where = tmp_path / "u"
        if kind == "glob":
            where = tmp_path / "u" / "*.parquet"
    if kind == "parquet":
        where = tmp_path / "u" / "0.parquet"
    run = ingest(tmp_path, small["labeled"], where)
    wanted = [row["text"] for row in rows][: 3 if kind == "parquet" else 6]
    assert run.examples("unlabeled")["question"].to_pylist() == wanted


def test_a_saved_hugging_face_dataset(small, tmp_path) -> None:
    import datasets

    rows = {"text": ["x", "y"], "label": ["a", "b"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    run = ingest(tmp_path, small["labeled"], tmp_path / "saved")
    assert run.examples("unlabeled")["question"].to_pylist() == ["x", "y"]


def test_bad_rows_are_put_aside_with_their_place(small, tmp_path) -> None:
    path = tmp_path / "u.jsonl"
    good = json.dumps({"text": "fine", "label": "a"}).encode()
    path.write_bytes(b"\n".join([good, b'{"text": ', b'{"text": "\xff"}', b"[1]", b'{"text": ""}']))
    run = ingest(tmp_path, small["labeled"], path)
    assert run.examples("unlabeled")["question"].to_pylist() == ["fine"]
    found = [(row["row"], row["reason"]) for row in run.quarantine().to_pylist()]
    assert [row for row, _ in found] == [2, 3, 4, 5]
    assert [reason.split(":")[0] for _, reason in found] == [
        "broken JSON", "not valid UTF-8", "not a JSON object", "the question is empty"
    ]  # fmt: skip


def test_too_many_bad_rows_stop_the_run(small, tmp_path) -> None:
    path = tmp_path / "u.jsonl"
    path.write_text("{\n" * 5)
    with pytest.raises(UserError, match=r"u\.jsonl: row 3: broken JSON.*max_bad_rows \(2\)"):
        ingest(tmp_path, small["labeled"], path, max_bad_rows=2)
    assert not (tmp_path / "run" / "data" / "unlabeled").exists()


def test_mistakes_are_one_line_each(small, tmp_path) -> None:
    cases = [
        ({"labeled": tmp_path / "none.csv"}, "data.labeled: .*none.csv: no such file"),
        ({"columns": {"question": "txt", "answer": "label"}}, "no column 'txt'; it has text"),
        ({"task": {"kind": "multiple_choice"}}, "needs options; set data.columns.options"),
        ({"labeled": write_csv(tmp_path / "e.csv", [{"text": "", "label": ""}])}, "no usable row"),
        ({"task": {"kind": "label", "labels": ["x"]}}, "not one of the 1 labels"),
    ]
    # One run directory for all: what failed in ingest may be mended and tried again.
    for change, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            ingest(tmp_path, **(small | change))
        assert "\n" not in str(caught.value)


def test_a_repeated_id_names_both_rows(small, tmp_path) -> None:
    rows = [{"text": f"t{i}", "label": "a", "key": key} for i, key in enumerate("xyx")]
    path = write_csv(tmp_path / "u.csv", rows)
    labeled = write_csv(tmp_path / "l.csv", [{"text": "l", "label": "a", "key": "k"}])
    columns = {"question": "text", "answer": "label", "id": "key"}
    with pytest.raises(UserError, match=r"u.csv: row 3: id 'x' is already that of .*u.csv, row 1"):
        ingest(tmp_path, labeled, path, columns=columns)


def test_what_the_test_set_holds_is_not_trained_on(small, tmp_path) -> None:
    test = write_csv(
        tmp_path / "t.csv",
        [{"text": "labelled 0", "label": "a"}, {"text": "unlabelled 3", "label": "a"}],
    )
    run = ingest(tmp_path, **small, test=test)
    found = run.manifests[0].statistics
    assert found["contaminated_rows"] == {"test": 0, "labeled": 1, "unlabeled": 1}
    assert "unlabelled 3" not in run.examples("unlabeled")["question"].to_pylist()


def test_integer_answers_count_from_where_all_of_them_do(tmp_path) -> None:
    """Rows of `cais/mmlu`: read one by one, those whose options are numbers came out wrong."""
    words, numbers = ["w", "x", "y", "z"], ["3", "2", "1", "0"]
    columns = {"question": "text", "answer": "label", "options": "options"}
    rows = {"text": [f"q{i}" for i in range(5)], "label": [0, 1, 2, 3, 2],
            "options": [words, numbers, words, words, numbers]}  # fmt: skip
    labeled = write_parquet(tmp_path / "l.parquet", rows)
    asked = {"text": ["u0", "u1"], "label": [1, 1], "options": [words, numbers]}
    unlabeled = write_parquet(tmp_path / "u.parquet", asked)
    task = {"kind": "multiple_choice"}
    run = ingest(tmp_path / "0", labeled, unlabeled, columns=columns, task=task)
    assert run.examples("labeled")["answer"].to_pylist() == list("ABCDC")
    assert run.manifests[0].statistics["answers"] == "answers are numbers from 0 (5)"
    withheld = run.directory.read_table("ingest/attempt-1/withheld/shard-00000.parquet")
    assert withheld["answer"].to_pylist() == ["B", "B"]
    contradicting = write_parquet(tmp_path / "c.parquet", rows | {"label": [0, 1, 2, 4, 2]})
    with pytest.raises(UserError, match=r"row 4: '4' of 4 options, and .*row 1: '0' of 4 options"):
        ingest(tmp_path / "1", contradicting, unlabeled, columns=columns, task=task)


def test_pubmedqa_as_the_authors_publish_it(tmp_path) -> None:
    rows = {"text": ["Does it?", "Is it?"], "label": ["C", "A"],
            "options": ['["No", "Maybe", "Yes"]'] * 2}  # fmt: skip
    columns = {"question": "text", "answer": "label", "options": "options"}
    labeled = write_parquet(tmp_path / "l.parquet", rows)
    unlabeled = write_parquet(tmp_path / "u.parquet", rows | {"text": ["Was it?", "Has it?"]})
    run = ingest(tmp_path, labeled, unlabeled, columns=columns, task={"preset": "pubmedqa"})
    assert run.examples("labeled")["answer"].to_pylist() == ["yes", "no"]
    assert run.manifests[0].statistics["bad_rows"] == 0


def test_labels_weigh_what_their_column_says(small, tmp_path) -> None:
    rows = [
        {"text": f"labelled {i}", "label": "a", "trust": trust}
        for i, trust in enumerate([1, 0.25, "", 0, -1, "much", "nan"])
    ]
    columns = {"question": "text", "answer": "label", "weight": "trust"}
    labeled = write_csv(tmp_path / "weighed.csv", rows)
    run = ingest(tmp_path, labeled, small["unlabeled"], columns=columns)
    assert run.examples("labeled")["weight"].to_pylist() == [1.0, 0.25, None, 0.0]
    assert set(run.examples("unlabeled")["weight"].to_pylist()) == {None}
    found = [(row["row"], row["reason"]) for row in run.quarantine().to_pylist()]
    assert [number for number, _ in found] == [5, 6, 7]
    assert all("is no weight: a number from 0 on" in reason for _, reason in found)
    with pytest.raises(UserError, match=r"data\.columns\.weight: no column 'trust'"):
        ingest(tmp_path, **small, columns=columns, run_dir=str(tmp_path / "other"))


def test_labels_that_a_voting_classifier_could_not_learn_are_refused_here(tmp_path, small) -> None:
    """And not when the first model is trained already."""
    voters = [{"model": "warm"}, {"model": "probe"}]
    rows = [{"text": f"labelled {i}", "label": f"class {i // 2}"} for i in range(12)]
    labeled = write_csv(tmp_path / "pairs.csv", rows)
    ingest(tmp_path / "enough", labeled, small["unlabeled"], collaborators=voters)
    # Of these a share is held out, which leaves too few.
    selection = {"policy": "stacked"}
    with pytest.raises(UserError, match="classifier: 10 labels hold 6 different answers"):
        ingest(tmp_path / "held", labeled, small["unlabeled"], collaborators=voters,
               selection=selection)  # fmt: skip
    ingest(tmp_path / "none", labeled, small["unlabeled"], selection=selection)
    one = write_csv(tmp_path / "one.csv", [row | {"label": "a"} for row in rows])
    with pytest.raises(UserError, match="every label is 'a'"):
        ingest(tmp_path / "one", one, small["unlabeled"], collaborators=voters)
    references = {"references": [{"embedder": "tfidf"}]}
    with pytest.raises(UserError, match=r"evaluation\.references: .* every label is 'a'"):
        ingest(tmp_path / "two", one, small["unlabeled"], evaluation=references)


def test_labels_that_a_reader_of_answers_cannot_tell_apart_are_refused_here(
    tmp_path, small
) -> None:
    rows = [{"text": f"labelled {i}", "label": ["Spam", "ham", "spam"][i % 3]} for i in range(6)]
    labeled = write_csv(tmp_path / "cases.csv", rows)
    with pytest.raises(UserError, match=r"\"Spam\" and \"spam\" are the same.*task\.labels"):
        ingest(tmp_path / "a", labeled, small["unlabeled"])
    task = {"kind": "label", "labels": ["spam", "ham"]}
    run = ingest(tmp_path / "b", labeled, small["unlabeled"], task=task)
    assert set(run.examples("labeled")["answer"].to_pylist()) == {"spam", "ham"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["Ham", "spam"], "the answer 'Ham' is the label 'ham' in another spelling"),
        (["0.0", "1.0"], r"no answer is one of the 2 labels: '0\.0' \(1\), '1\.0' \(1\)"),
    ],
)
def test_a_test_set_by_which_no_model_could_be_right_is_refused(
    tmp_path, small, answers, message
) -> None:
    rows = [{"text": f"labelled {i}", "label": ["spam", "ham"][i % 2]} for i in range(6)]
    labeled = write_csv(tmp_path / "labels.csv", rows)
    asked = [{"text": f"asked {i}", "label": answer} for i, answer in enumerate(answers)]
    test = write_csv(tmp_path / "test.csv", asked)
    with pytest.raises(UserError, match=message):
        ingest(tmp_path / "run", labeled, small["unlabeled"], test)


def test_test_answers_that_no_label_has_are_told(tmp_path, small) -> None:
    rows = [{"text": f"labelled {i}", "label": ["spam", "ham"][i % 2]} for i in range(6)]
    labeled = write_csv(tmp_path / "labels.csv", rows)
    asked = [{"text": f"asked {i}", "label": answer} for i, answer in enumerate(["ham", "news"])]
    found = check_test_answers({"spam": 3, "ham": 3}, {"ham": 1, "news": 1})
    assert found == "1 test answers are none of the labels, and count as wrong: 'news' (1)"
    # Symbols tell them apart.
    for labels, name in ((("A", "B"), "A+"), (("C", "Java"), "C++"), (("<18", "18-65"), ">18"),
                         (("card payment", "b"), "card payment fee")):  # fmt: skip
        assert name in check_test_answers(dict.fromkeys(labels, 1), {name: 1, labels[0]: 1})
    run = ingest(tmp_path / "run", labeled, small["unlabeled"],
                 write_csv(tmp_path / "test.csv", asked))  # fmt: skip
    assert run.examples("test")["answer"].to_pylist() == ["ham", "news"]


def test_what_is_left_out_is_said_with_its_reason(tmp_path) -> None:
    labeled = write_csv(tmp_path / "l.csv", [
        {"text": "I want my money", "label": "refund"},
        {"text": "I want my money", "label": "complaint"},
        {"text": "where is it", "label": "delivery"},
        {"text": "lost", "label": "delivery"},
        {"text": "", "label": "delivery"},
        {"text": "asked", "label": "delivery"},
    ])  # fmt: skip
    test = write_csv(tmp_path / "t.csv", [{"text": "asked", "label": "delivery"}])
    rows = [{"text": text} for text in ("lost", "asked", "new", "new", "newer")]
    unlabeled, heard = write_csv(tmp_path / "u.csv", rows), Heard()
    ingest(tmp_path, labeled, unlabeled, test, progress=heard)
    assert heard.lines == [
        "test: 1 rows",
        "test: 'delivery' 1",
        f"labeled: 3 rows; left out: 1 unusable ({labeled}: row 5: the question is empty), "
        "1 that repeat others, 1 of the test set",
        "labeled: 'delivery' 2, 'refund' 1",
        "labeled: 1 questions have more than one answer, and the first counts: "
        "'I want my money' has 'refund' and 'complaint'",
        "unlabeled: 2 rows; left out: 1 that repeat others, 1 of the test set, 1 among the labels",
    ]
    with pytest.raises(UserError, match=r"no usable row; labeled: 0 rows; .* 1 of the test set"):
        ingest(tmp_path / "same", test, unlabeled, test)


def test_labels_that_repeat_others_under_other_ids_are_left_out(tmp_path) -> None:
    said = [
        ("twice", "a", 1), ("once", "b", 1), ("twice", "a", 1), ("weighed", "a", 1),
        ("weighed", "a", 2), ("doubtful", "a", 1), ("doubtful", "b", 1), ("doubtful", "a", 1),
    ]  # fmt: skip
    rows = [
        {"n": f"l{i}", "text": text, "label": label, "trust": trust}
        for i, (text, label, trust) in enumerate(said)
    ]
    labeled, heard = write_csv(tmp_path / "l.csv", rows), Heard()
    corpus = [row | {"n": f"u{i}", "text": f"asked {i // 2}"} for i, row in enumerate(rows)]
    run = ingest(
        tmp_path, labeled, write_csv(tmp_path / "u.csv", corpus), progress=heard,
        columns={"question": "text", "answer": "label", "id": "n", "weight": "trust"},
    )  # fmt: skip
    # What disagrees, and what is weighed otherwise, is left to whoever wrote it; so is the corpus.
    kept = [f"l{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
    assert run.examples("labeled")["example_id"].to_pylist() == kept
    assert run.manifests[0].statistics["repeated_rows"] == {"labeled": 1, "unlabeled": 0}
    assert "labeled: 7 rows; left out: 1 that repeat others" in heard.lines
    (put_aside,) = run.quarantine().to_pylist()
    assert (put_aside["row"], put_aside["reason"]) == (3, "repeats an earlier example")


def test_a_label_that_no_row_has_is_told(tmp_path, small) -> None:
    assert labels_without_rows(["spam", "ham"], {"spam": 3, "ham": 1}) == ""
    assert labels_without_rows(["spam", "ham"], {"spam": 3}).endswith("no labelled row has 'ham'")
    rows = [{"text": f"labelled {i}", "label": "not  bad"} for i in range(3)]
    labeled = write_csv(tmp_path / "l.csv", rows)
    task = {"kind": "label", "labels": ["Not bad ", "bad"]}
    run = ingest(tmp_path, labeled, small["unlabeled"], task=task)
    assert run.examples("labeled")["answer"].to_pylist() == ["Not bad "] * 3


def test_what_is_measured_by_held_out_examples_needs_some(tmp_path, small) -> None:
    for evolve, stage in (({}, "warmup"), ({"training": {"held_out": 0}}, "evolve")):
        training = {"evaluate_every_steps": 9} | ({"held_out": 0.1} if evolve else {})
        with pytest.raises(UserError, match=rf"{stage}: training\.evaluate_every_steps needs"):
            ingest(tmp_path, **small, training=training, evolve=evolve)


def test_soft_targets_need_a_policy_that_has_them(tmp_path, small) -> None:
    with pytest.raises(UserError, match=r"soft_targets: the policy paper has no distribution"):
        ingest(tmp_path, **small, evolve={"soft_targets": True})


def test_options_may_have_columns_of_their_own(tmp_path) -> None:
    """MMLU's own CSV; a question of three options leaves the last column empty."""
    answers = ["A", "d", "C", "D", ""]
    rows = [
        {"text": f"q{i}", "A": "w", "B": "x", "C": "y", "D": "" if i == 2 else "z", "label": a}
        for i, a in enumerate(answers)
    ]
    rows.append({"text": "gap", "A": "w", "B": "", "C": "y", "D": "z", "label": "A"})
    labeled = write_csv(tmp_path / "l.csv", rows)
    unlabeled = write_jsonl(
        tmp_path / "u.jsonl", {"text": "u", "A": "w", "B": "x", "C": "y", "D": "z"}
    )
    columns = {"question": "text", "answer": "label", "options": list("ABCD")}
    task = {"kind": "multiple_choice"}
    run = ingest(tmp_path, labeled, unlabeled, columns=columns, task=task)
    found = run.examples("labeled").to_pylist()
    assert [row["answer"] for row in found] == list("ADCD")
    assert [row["options"] for row in found][1:3] == [list("wxyz"), list("wxy")]
    reasons = [row["reason"] for row in run.quarantine().to_pylist()]
    assert reasons == ["the answer is empty", "A, B, C, D: option 2 is empty"]
    columns["options"] = [*"ABC", "E"]
    for split, files in (("labeled", (labeled, unlabeled)), ("unlabeled", (unlabeled, unlabeled))):
        with pytest.raises(UserError, match=r"data\.columns\.options\.3: no .*'E'"):
            ingest(tmp_path / split, *files, columns=columns, task=task)


def test_answers_count_options_that_have_columns_of_their_own(tmp_path) -> None:
    """PIQA's `sol1`, `sol2`, counted from 0; of Winogrande the text of one."""
    rows = [{"text": f"q{i}", "sol1": f"x{i}", "sol2": f"y{i}", "label": i % 2} for i in range(4)]
    columns = {"question": "text", "answer": "label", "options": ["sol1", "sol2"]}
    unlabeled = write_csv(tmp_path / "u.csv", [rows[0] | {"text": "u"}])
    task = {"kind": "multiple_choice"}
    texts = [row | {"label": row["sol2"]} for row in rows]
    for name, several, expected in (("numbers", rows, "ABAB"), ("texts", texts, "BBBB")):
        labeled = write_csv(tmp_path / f"{name}.csv", several)
        run = ingest(tmp_path / name, labeled, unlabeled, columns=columns, task=task)
        assert run.examples("labeled")["answer"].to_pylist() == list(expected)


@pytest.mark.parametrize("options", [[], ["A"], ["A", "A"], ["A", 1], {"A": "B"}])
def test_options_are_a_column_or_several(small, tmp_path, options) -> None:
    with pytest.raises(UserError, match=r"data\.columns\.options: (expected a column|a column is)"):
        ingest(tmp_path, **small, columns={"options": options})
