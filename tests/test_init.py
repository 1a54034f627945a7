"""`semievol init`: data sets as they are published get a config that ingest can do with."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import Config, load_config, pipeline
from semievol_ray.cli import main
from semievol_ray.results import Run
from semievol_ray.tasks import Task
from tests.stages.ingesting import write_csv, write_jsonl

ROWS = 40


def rows_of(**columns) -> list[dict]:
    """Rows whose cells are what a function of their number says, or one text with its number."""
    return [
        {key: cell(i) if callable(cell) else f"{cell} {i}" for key, cell in columns.items()}
        for i in range(ROWS)
    ]


def files(folder: Path, labeled: list[dict], **others: list[dict] | None) -> list[str]:
    """Options of `init` for files of these rows: CSV where every cell is a text or a number."""
    arguments = []
    other = [row | {k: f"{v} u" for k, v in row.items() if isinstance(v, str)} for row in labeled]
    splits = {"labeled": labeled, "unlabeled": other, **others}
    for split, rows in splits.items():
        plain = all(isinstance(v, str | int | float) for row in rows for v in row.values())
        file = folder / f"{split}.{'csv' if plain else 'jsonl'}"
        write_csv(file, rows) if plain else write_jsonl(file, *rows)
        arguments.append(f"--{split}={file}")
    return arguments


@pytest.fixture
def init(tmp_path, capsys):
    """The config that `init` writes for some rows, its text, and what it said."""

    def written(labeled, *options: str, **others) -> tuple[Config, str, str]:
        output = tmp_path / "c.yaml"
        output.unlink(missing_ok=True)
        arguments = [*files(tmp_path, labeled, **others), f"--output={output}", *options]
        assert main(["init", *arguments]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        config = load_config(output, (f"run_dir={tmp_path}/run", "model.name=unused"))
        return config, output.read_text(encoding="utf-8"), said

    return written


@pytest.fixture
def refused(tmp_path, capsys):
    """The one line that `init` ends in."""

    def line(labeled: list[dict] | str, *options: str, **others) -> str:
        if isinstance(labeled, str):
            (tmp_path / "labeled.csv").write_text(labeled)
            where = [f"--{split}={tmp_path}/labeled.csv" for split in ("labeled", "unlabeled")]
        else:
            where = files(tmp_path, labeled, **others)
        output = tmp_path / "refused.yaml"
        assert main(["init", *where, f"--output={output}", *options]) == 2
        assert not output.exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return line


def unwrapped(text: str) -> str:
    """A config without its lines' ends and comments' signs, as one line."""
    return " ".join(text.replace("#", " ").split())


def ingested(config: Config) -> Run:
    run = Run(pipeline.run(config, until="ingest").uri)
    assert run.manifests[0].statistics["bad_rows"] == 0
    return run


CHOICE = {"text": ["a", "b"], "label": ["A", "B"]}
# Data set, its columns, the kind, and question, context, options and answer.
PUBLISHED = {
    "AG News": (
        {"Class Index": lambda i: i % 4 + 1, "Title": "t", "Description": "d"},
        "label", "Description", "Title", None, "Class Index",
    ),
    "SST-2": (
        {"sentence": "s", "label": lambda i: i % 2}, "label", "sentence", None, None, "label",
    ),
    "Amazon": (
        {"overall": lambda i: float(i % 5 + 1), "asin": "B", "reviewText": "r", "summary": "s"},
        "label", "reviewText", None, None, "overall",
    ),
    "IMDB": (
        {"review": "r", "sentiment": lambda i: ["positive", "negative"][i % 2]},
        "label", "review", None, None, "sentiment",
    ),
    "medical abstracts": (
        {"condition_label": lambda i: i % 5 + 1, "medical_abstract": "m"},
        "label", "medical_abstract", None, None, "condition_label",
    ),
    "TNEWS": (
        {"label": lambda i: 100 + i % 3, "label_desc": lambda i: "abc"[i % 3], "sentence": "s"},
        "label", "sentence", None, None, "label_desc",
    ),
    "BoolQ": (
        {"question": "q", "title": "t", "answer": lambda i: i % 2 == 0, "passage": "p"},
        "label", "question", "passage", None, "answer",
    ),
    "PubMedQA": (
        {
            "question": "q", "context": lambda i: {"contexts": [f"c {i}", "d"], "meshes": ["x"]},
            "long_answer": "l", "final_decision": lambda i: ["yes", "no"][i % 2],
        },
        "label", "question", "context.contexts", None, "final_decision",
    ),
    "SNLI": (
        {"sentence1": "s", "sentence2": "t", "gold_label": lambda i: ["neutral", "other"][i % 2]},
        "label", "sentence2", "sentence1", None, "gold_label",
    ),
    "QNLI": (
        {"question": "q", "sentence": "s", "label": lambda i: ["entailment", "no"][i % 2]},
        "label", "question", "sentence", None, "label",
    ),
    "RACE": (
        {"article": "a", "question": "q", "options": lambda i: [f"x {i}", "y"],
         "answer": lambda i: "A"},
        "multiple_choice", "question", "article", "options", "answer",
    ),
    "CommonsenseQA": (
        {"question": "q", "question_concept": "c", "choices": lambda i: CHOICE,
         "answerKey": lambda i: "AB"[i % 2]},
        "multiple_choice", "question", None, "choices", "answerKey",
    ),
    "MMLU": (
        {"question": "q", "A": "a", "B": "b", "C": "c", "D": "d",
         "answer": lambda i: "ABCD"[i % 4]},
        "multiple_choice", "question", None, tuple("ABCD"), "answer",
    ),
    "MedMCQA": (
        {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": lambda i: i % 4},
        "multiple_choice", "question", None, ("opa", "opb", "opc", "opd"), "cop",
    ),
    "PIQA": (
        {"goal": "g", "sol1": "a", "sol2": "b", "label": lambda i: i % 2},
        "multiple_choice", "goal", None, ("sol1", "sol2"), "label",
    ),
    "Winogrande": (
        {"sentence": "s", "option1": "a", "option2": "b", "answer": lambda i: i % 2 + 1},
        "multiple_choice", "sentence", None, ("option1", "option2"), "answer",
    ),
    "SIQA": (
        {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d",
         "label": lambda i: i % 3 + 1},
        "multiple_choice", "question", "context", ("answerA", "answerB", "answerC"), "label",
    ),
    "SWAG": (
        {"sent1": "s", "startphrase": "p", "ending0": "a", "ending1": "b", "ending2": "c",
         "ending3": "d", "label": lambda i: i % 4},
        "multiple_choice", "startphrase", None, tuple(f"ending{i}" for i in range(4)), "label",
    ),
    "Alpaca": (
        {"instruction": "i", "input": "x", "output": "what was asked is answered here",
         "text": lambda i: f"### i: i {i} ### x: x {i}: what was asked is answered here {i}"},
        "text", "instruction", "input", None, "output",
    ),
    "a conversation as one text": (
        {"instruction": "i", "output": "what was asked is answered here",
         "text": lambda i: f"### i: i {i}: what was asked is answered here {i}"},
        "text", "instruction", None, None, "output",
    ),
    "names alone": (
        {"label_text": lambda i: "ab"[i % 2], "comment_text": "c"},
        "label", "comment_text", None, None, "label_text",
    ),
    "options that no row has": (
        {"question": "q", "options": lambda i: None, "answer": lambda i: "ab"[i % 2]},
        "label", "question", None, None, "answer",
    ),
    "Dolly": (
        {"instruction": "i", "context": lambda i: "" if i % 3 else f"c {i}", "response": "r",
         "category": lambda i: ["open_qa", "closed_qa"][i % 2]},
        "text", "instruction", "context", None, "response",
    ),
    "GSM8K": (
        {"question": "q", "answer": lambda i: f"It is <<3*{i}={3 * i}>>.\n#### {3 * i:,}"},
        "numeric", "question", None, None, "answer",
    ),
    "SVAMP": ({"question": "q", "answer": lambda i: i % 9}, "numeric", "question", None, None,
              "answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_sets_are_known(init, name) -> None:
    columns, kind, *expected = PUBLISHED[name]
    rows = rows_of(**columns)
    test = [row | {k: f"{v} t" for k, v in row.items() if k == expected[0]} for row in rows]
    config, _, said = init(rows, test=test)
    found = config.data.columns
    assert (config.task.kind, said.partition("wrote")[0].count("\n")) == (kind, name == "TNEWS")
    assert [found.question, found.context, found.options, found.answer] == expected
    assert len(ingested(config).examples("labeled")) == ROWS


def test_numbers_that_are_labels_are_said_to_be_numbers(init) -> None:
    config, text, _ = init(rows_of(text="t", label=lambda i: float(i % 3)))
    assert "kind: label   # 3 different whole numbers in 40 rows" in text
    assert "# instruction: " in text and "0.0: …, 1.0: …, 2.0: …" in text
    assert ingested(config).manifests[0].statistics["labels"] == ["0.0", "1.0", "2.0"]


def test_the_names_of_a_parquets_classes_need_no_more(tmp_path) -> None:
    feature = b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}'
    table = pa.table({"text": [f"t {i}" for i in range(ROWS)], "label": [0, 1] * (ROWS // 2)})
    file, output = tmp_path / "l.parquet", tmp_path / "c.yaml"
    pq.write_table(table.replace_schema_metadata({"huggingface": feature}), file)
    assert main(["init", f"--labeled={file}", f"--unlabeled={file}", f"--output={output}"]) == 0
    assert "task: {kind: label}   # 2 different answers in 40 rows" in output.read_text()


def test_a_column_of_names_is_the_answer_only_where_the_test_set_has_it(init) -> None:
    rows = rows_of(text="t", label=lambda i: i % 2, label_text=lambda i: ["no", "yes"][i % 2])
    config, text, said = init(rows)
    assert config.data.columns.answer == "label_text" and '# not used: "label"' in text
    assert "'label_text' names the numbers in 'label'" in said
    test = [{"text": f"test {i}", "label": i % 2} for i in range(4)]
    assert init(rows, test=test)[0].data.columns.answer == "label"
    mixed = [row | {"label_text": ["no", "yes"][i % 3 % 2]} for i, row in enumerate(rows)]
    assert init(mixed)[0].data.columns.answer == "label"


def test_answers_that_work_towards_a_number_are_asked_to(init) -> None:
    config, _, _ = init(rows_of(question="q", answer=lambda i: f"Twice.\n#### {i}"))
    assert "####" in (config.task.instruction or "")


def test_what_is_boxed_is_the_answer_of_a_worked_solution(init) -> None:
    math = {"problem": "p", "level": "Level", "type": lambda i: "ab"[i % 2]}
    numbers = init(rows_of(**math, solution=lambda i: rf"As 2 + 2 = 4, it is $\boxed{{{i}}}$."))[0]
    assert (numbers.task.kind, numbers.data.columns.answer) == ("numeric", "solution")
    assert "\\boxed{}" in (numbers.task.instruction or "")
    written = r"So $x = \boxed{{\frac{{\sqrt{{3^{{{}}}}}}}{{2}}}}$, as was to be shown."
    rows = rows_of(**math, solution=lambda i: written.format(i) if i % 4 else rf"\boxed{{{i}}}")
    config, text, said = init(rows)
    assert (config.task.kind, said.partition("wrote")[0]) == ("text", "")
    assert "# The last \\boxed{}" in text and "plain numbers; of" not in text
    task = Task.from_config(config.task)
    gold = pa.array([row["solution"] for row in rows])
    replies = pa.array([rf"I think it is \boxed{{{i}}}" for i in range(ROWS)])
    assert task.correct(task.parse(replies), gold).to_pylist() == [i % 4 == 0 for i in range(ROWS)]
    assert task.correct(task.parse(gold), gold).true_count == ROWS
    assert task.parse(gold)[1].as_py() == task.parse(pa.array([r"\frac{\sqrt{3^{1}}}2"]))[0].as_py()
    # One fraction, of which the last number would be taken, makes them no numbers.
    rows = rows_of(**math, solution=lambda i: rf"\boxed{{{i}}}" if i else r"\boxed{\frac{1}{2}}")
    config, text, said = init(rows)
    assert "have no" not in said
    assert config.task.kind == "text" and "39 of 40 boxes hold plain numbers" in unwrapped(text)
    for last in (r"\boxed{5}", r"\boxed{x}"):
        boxed = rows_of(**math, solution=lambda i, b=last: rf"{i}: {b}" if i else r"\boxed 5")
        assert r"1 of 40 answers have no \boxed{}: leave those rows out" in init(boxed)[2]


LONG = "The town council met on Monday to talk about the bridge, number"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (LONG, "half of the answers have more than 8 words: votes and evaluation compare whole"),
        (
            "城市议会星期一开会讨论那座旧桥的修缮问题并决定推迟到明年春天再说此事了",
            "more than 8 words",
        ),
        (lambda i: json.dumps({"city": f"x {i}", "day": "May"}), "the answers are JSON: votes"),
        (lambda i: f"SELECT a FROM b WHERE c = {i}", "the answers look like code: votes"),
        (lambda i: f"def add_{i}(x): return x", "the answers look like code"),
        ("เทศบาลประชุมวันจันทร์เรื่องการซ่อมสะพานเก่า", "more than 8 words"),
        ("in the old town", ""),
        ("Государственный исторический музей Москвы", ""),
        ("Εθνικό Αρχαιολογικό Μουσείο Θεσσαλονίκης", ""),
        ("المتحف الوطني السعودي في الرياض", ""),
        ("राष्ट्रीय संग्रहालय नई दिल्ली भारत", ""),
        ("서울특별시 종로구에 있는 국립고궁박물관 전시실에서 열린 특별전시회", ""),
        ("Городской совет собрался в понедельник и говорил о старом мосте", "more than 8 words"),
        (lambda i: f"Mary Smith (born {i})", ""),
    ],
)
def test_open_answers_that_hardly_agree_are_said(init, answer, words) -> None:
    config, text, said = init(rows_of(question="q", answer=answer))
    assert config.task.kind == "text"
    assert words in said and ("whole answers" in said) == bool(words)
    assert words.removeprefix("half ").removeprefix("the ") in unwrapped(text)


def test_answers_of_several_labels_are_said(init) -> None:
    swapped = ["joy, anger", "anger, joy", "joy", "fear"]
    config, text, said = init(rows_of(text="t", label=lambda i: swapped[i % 4]))
    assert config.task.kind == "label"
    for where in (said, unwrapped(text)):
        assert "'joy, anger' and 'anger, joy' combine the same labels, and are two ans" in where
    combined = ["joy|anger", "joy|fear", "anger|fear", "joy|anger|fear"]
    said = init(rows_of(text="t", label=lambda i: combined[i % 4]))[2]
    assert "most answers combine some of 3 labels ('joy', 'anger', 'fear')" in said
    # So many combinations that they are no labels to init.
    names = [*"abcdefghij"]
    config, _, said = init(
        rows_of(text="t", label=lambda i: f"{names[i % 10]}; {names[(i + i // 10 + 1) % 10]}")
    )
    assert config.task.kind == "text" and "most answers combine some of 10 labels" in said
    for plain in (["Restaurants, bars", "Hotels, motels"], ["Sci/Tech", "World"], ["a, b", "A, b"]):
        said = init(rows_of(text="t", label=lambda i, plain=plain: plain[i % 2]))[2]
        assert "combine" not in said
    said = init(rows_of(question="q", answer=lambda i: f"Town {i}, country {i % 30}"))[2]
    assert "combine" not in said


MONTHS, NAMES = ["March", "April", "May", "June"], ["Ann", "Bob", "Cid", "Dee", "Eve", "Flo"]

STATES, ASPECTS = ["OR", "MA", "WA", "TX", "ME", "NY"], ["food", "staff", "price"]
OPINIONS = ["good", "bad", "mixed", "none"]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("text", lambda i: f"{MONTHS[i // 10]} 19, 200{i % 10}"),
        ("text", lambda i: f"{'GHIJKLM'[i // 6]}ill, {NAMES[i % 6]}"),
        ("text", lambda i: f"({i // 7}, {i % 7})"),
        ("text", lambda i: f"The {NAMES[i // 8]} House, Part {i % 8}"),
        ("text", lambda i: f"{i // 7 + 1}:00, {i % 7 + 1}:00"),
        ("text", lambda i: f"{'GHIJKLM'[i // 6]}ville, {STATES[i % 6]}"),
        ("label", lambda i: f"{ASPECTS[i % 3]},{OPINIONS[i % 12 // 3]}"),
        ("label", lambda i: ["Art", "Art, Film", "Art, Film, Noir", "Art, Song", "Art, Song, Lied",
                             "Art, Song, Lied, Alt"][i % 6]),
    ],
)  # fmt: skip
def test_what_stands_in_an_order_is_not_several_labels(init, kind, answer) -> None:
    config, text, said = init(rows_of(question="q", answer=answer))
    assert config.task.kind == kind
    assert "combine" not in said and "combine" not in text


def test_many_parts_are_no_labels(init) -> None:
    names = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    rows = [
        {"question": f"q {i}", "answer": f"{names[i % 64]}, {names[(i + i // 64 + 1) % 64]}"}
        for i in range(200)
    ]
    config, _, said = init(rows)
    assert config.task.kind == "text" and "combine" not in said


@pytest.mark.parametrize("column", ["labels", "label"])
@pytest.mark.parametrize("mark", [",", ", ", ";", "|"])
def test_several_codes_in_a_cell_are_no_numbers(init, column, mark) -> None:
    codes = ["1,4", "2", "1,4,7", "7", "2,7", "4"]
    label = {column: lambda i: codes[i % 6].replace(",", mark)}
    config, text, said = init(rows_of(text="t", **label))
    assert (config.task.kind, config.task.decimal_mark) == ("label", ".")
    shown = "1,4,7".replace(",", mark)
    for where in (said, unwrapped(text)):
        assert f"look like several labels in a cell, as {shown!r}; a row has one an" in where
    assert "scores" not in said and "decimal" not in said
    # So many that they are no labels to init.
    config, _, said = init(rows_of(text="t", labels=lambda i: f"{i % 9},{i // 9 + 1},{i % 5}"))
    assert config.task.kind == "text" and "several labels in a cell" in said


@pytest.mark.parametrize(
    "answer",
    [
        lambda i: f"{i},5",
        lambda i: f"{i % 5},{i % 10}" if i % 3 else i % 5,
        lambda i: f"{i + 1},200,300",
        lambda i: f"{i + 10},34,567",
        lambda i: f"{i % 7}, {i % 5}",
        lambda i: f"{i},5" if i else "1,2,3,4",
    ],
)
def test_decimal_commas_thousands_and_pairs_are_no_codes(init, answer) -> None:
    rows = rows_of(question="q", answer=answer)
    if rows[0]["answer"] != "1,2,3,4":
        assert "several labels" not in init(rows)[2]
    else:
        # One slip among many.
        assert "several labels" not in init([*rows[1:] * 5, rows[0]])[2]


def test_scores_are_said_to_be_compared_as_they_are(init) -> None:
    pairs = {"sentence1": "a", "sentence2": "b"}
    config, text, said = init(rows_of(**pairs, score=lambda i: i % 11 / 2))
    assert (config.task.kind, config.task.relative_tolerance) == ("numeric", None)
    assert "numbers from 0 to 5 with fractions, as scores are" in said
    assert "# relative_tolerance: 0.1" in text and "as scores are" in unwrapped(text)
    german = init(rows_of(**pairs, score=lambda i: f"{i % 5},{i % 10}"))[2]
    assert "numbers from 0 to 4.9 with" in german
    for scale in (
        lambda i: i % 9 / 2 + 1, lambda i: i % 8 / 10 + 0.1, lambda i: i % 9 * 12.5,
        lambda i: i % 5 / 2 - 1,
    ):  # fmt: skip
        assert "as scores are" in init(rows_of(**pairs, score=scale))[2]
    # Prices, what is calculated, and temperatures.
    for measured in (
        lambda i: i % 8 + 0.99, lambda i: i * 0.125, lambda i: i % 5 * 7.3 - 12,
        lambda i: [0.5, 1.25, 3.75, 2.0][i % 4],
    ):  # fmt: skip
        assert "as scores are" not in (found := init(rows_of(question="q", answer=measured)))[2]
        assert "relative_tolerance" not in found[1]
    for counted in (lambda i: i % 7 + 2.0, lambda i: i * 1.25, lambda i: i % 9 + (i == 3) / 2):
        assert "as scores are" not in init(rows_of(question="q", answer=counted))[2]


def test_a_comma_that_parts_no_thousands_is_a_decimal_mark(init) -> None:
    comma = init(rows_of(question="q", answer=lambda i: ["1.200,75", f"{i},5"][i % 2]))[0]
    thousands = init(rows_of(question="q", answer=lambda i: f"{i + 1},200,300.5"))[0]
    assert (comma.task.kind, comma.task.decimal_mark) == ("numeric", ",")
    assert (thousands.task.kind, thousands.task.decimal_mark) == ("numeric", ".")
    # One that has it otherwise, and thousands as they are parted in India.
    german = init(rows_of(question="q", answer=lambda i: "1.299" if i % 3 else f"{i},99"))[0]
    assert german.task.decimal_mark == ","
    for odd, words in (("3,14", "'3,14' seems to have a decimal comma"), ("12,34,567", "")):
        rows = rows_of(question="q", answer=lambda i, odd=odd: f"{i}.125" if i else odd)
        config, _, said = init(rows)
        assert config.task.decimal_mark == "." and words in said


def test_whole_numbers_are_counted_unless_they_number_classes(init) -> None:
    kinds = {}
    for first, column in ((2000, "answer"), (0, "answer"), (2000, "label")):
        rows = rows_of(question="q", **{column: lambda i, first=first: first + i % 4})
        config, _, said = init(rows)
        kinds[first, column] = config.task.kind
        # Of a column that is called a label nothing needs to be said.
        assert ("if they are counted" in said) == ((first, column) == (0, "answer"))
    assert [*kinds.values()] == ["numeric", "label", "label"]


def test_columns_that_are_called_as_others_are_and_hold_something_else(init, refused) -> None:
    found = init(rows_of(text="t", document=lambda i: f"doc-{i}", n_support=lambda i: i,
                         label=lambda i: "ab"[i % 2]))[0].data.columns  # fmt: skip
    assert found.context is None
    ticket = init(rows_of(message="m", team=lambda i: "ab"[i % 2], output="o"))[0]
    assert (ticket.task.kind, ticket.data.columns.answer) == ("label", "team")
    flags = init(rows_of(text="t", a=lambda i: i % 2, b=lambda i: 1 - i % 2,
                         label=lambda i: i % 2))[0]  # fmt: skip
    assert (flags.task.kind, flags.data.columns.options) == ("label", None)
    sums = init(rows_of(question="q", A=lambda i: i, B=lambda i: i + 1,
                        answer=lambda i: "AB"[i % 2]))[0]  # fmt: skip
    assert (sums.task.kind, sums.data.columns.options) == ("multiple_choice", ("A", "B"))
    passage = "这是一个关于银行客户服务的很长的段落没有空格"
    rows = rows_of(question="q", context=lambda i: f"{i}{passage}", answer=lambda i: "ab"[i % 2])
    chinese = init(rows)[0]
    assert chinese.data.columns.context == "context"
    config, _, said = init(
        rows_of(question="q", choices="['a', 'b']", answer=lambda i: "ab"[i % 2])
    )
    assert config.task.kind == "label" and "'choices' holds no options: " in said
    excel = {"Option\nA": "x", "Option\nB": "y"}
    config = init(rows_of(question="q", **excel, answer=lambda i: "AB"[i % 2]))[0]
    assert config.data.columns.options == tuple(excel)
    assert "a column is there twice" in refused(rows_of(q="q", a="x"), "--options", "q", "q")


def test_labels_that_differ_in_case_alone_are_one(init) -> None:
    rows = rows_of(text="t", label=lambda i: ["Positive", "Positive", "positive ", "no"][i % 4])
    config, _, said = init(rows)
    assert config.task.labels == ("Positive", "no")
    assert "differ in case alone are read as one: 'Positive' and 'positive'" in said
    answers = ingested(config).examples("labeled")["answer"].to_pylist()
    assert set(answers) == {"Positive", "no"}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (lambda i: i % 3 - 1, "'-1' is one of the labels"),
        (lambda i: ["-", "yes"][i % 2], '"-" has no letters or digits'),
        (lambda i: ["a b", "a_b"][i % 2], "the same after normalisation"),
        (lambda i: "one", "40 rows have the one answer 'one'"),
    ],
)
def test_doubtful_labels_are_said(init, label, words) -> None:
    assert words in init(rows_of(text="t", label=label))[2]


def test_a_sorted_file_is_read_far_enough(init) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i >= 1000]} for i in range(1200)]
    assert "{kind: label}   # 2 different answers in 1,200 rows" in init(rows)[1]
    rows = [{"text": f"t {i}", "label": "ab"[i >= 11_000]} for i in range(12_000)]
    assert "the first 10,000 rows have the one answer 'a'" in init(rows)[2]


def test_what_another_file_lacks_is_said(init) -> None:
    rows = rows_of(id="n", passage="p", question="q", answer=lambda i: "ab"[i % 2])
    corpus = [{"q": "x", "id": 1}, {"q": "y", "id": 1}]
    test = [{"question": "x", "passage": "y", "id": 1, "answer": "c"}]
    config, text, said = init(rows, unlabeled=corpus, test=test)
    assert (config.data.columns.id, config.data.columns.context) == (None, None)
    assert "'id' is no id: rows of " in said and "'passage' would be the context, but " in said
    assert "unlabeled.csv: no column 'question', which data.columns.question names" in said
    assert "answers that are none of the labels: 'c' (1)" in said
    assert '# not used: "id", "passage"' in text
    said = init(rows, test=[{"question": "x", "passage": "y", "id": 2, "answer": ""}])[2]
    assert "no row has an answer in 'answer'" in said


def test_the_test_set_is_opened(refused, tmp_path) -> None:
    rows = rows_of(question="q", answer="a")
    assert "none.csv: no such file" in refused(rows, f"--test={tmp_path}/none.csv")


def test_the_user_names_columns(init, refused) -> None:
    rows = rows_of(
        label=lambda i: "xy"[i % 2], text="t", v1=lambda i: "ab"[i % 2], v2="v", about="c",
        first="f", second="s",
    )  # fmt: skip
    asked = ("--question=v2", "--answer=v1", "--context=about")
    found = init(rows, *asked)[0].data.columns
    assert (found.question, found.answer, found.context) == ("v2", "v1", "about")
    found = init(rows, "--options", "first", "second")[0]
    assert found.data.columns.options == ("first", "second")
    assert "--answer: " in (error := refused(rows, "--answer=v3")) and "no column 'v3'" in error
    nested = rows_of(item=lambda i: {"stem": f"q {i}"}, label=lambda i: "ab"[i % 2])
    assert init(nested, "--question=item.stem")[0].data.columns.question == "item.stem"


def test_advice_about_a_nested_answer_is_taken(init, refused) -> None:
    # SQuAD; one of its second version's questions has no answer.
    squad = rows_of(
        question="q", context="c",
        answers=lambda i: {"text": [f"a {i}", "b"] if i else [], "answer_start": [i]},
    )  # fmt: skip
    for named, advice in (
        ((), "as --answer=answers.text.0; there are answers.text.0, answers.answer_start.0 (0: "),
        (("--answer=answers.text",), "is a list; a row has one answer: say which with --answer, "),
    ):
        assert advice in refused(squad, *named) and "=answers.text.0;" in refused(squad, *named)
    config = init(squad, "--answer=answers.text.0")[0]
    run = Run(pipeline.run(config, until="ingest").uri)
    assert run.examples("labeled")["answer"].to_pylist() == [f"a {i}" for i in range(1, ROWS)]
    assert run.quarantine()["reason"].to_pylist() == ["the answer is empty"]
    slots = rows_of(question="q", answer=lambda i: json.dumps({"city": f"x {i}", "day": "May"}))
    assert init(slots)[0].task.kind == "text"


def test_lists_of_aliases_as_texts_are_no_answers(init, refused) -> None:
    def aliases(i: int) -> str:
        return json.dumps([f"politician {i}", "political leader"][: 1 + i % 2])

    popqa = {"question": "q", "possible_answers": aliases}
    advice = "are lists of texts, written as JSON; a row has one answer: write the one that counts"
    assert advice in (error := refused(rows_of(**popqa)))
    assert "--answer=possible_answers takes each list as a whole" in error
    config, _, said = init(rows_of(**popqa), "--answer=possible_answers")
    assert config.task.kind == "text" and advice in said
    # Another column is the answer, unless it holds such lists as well, or the lists name options.
    config, _, said = init(rows_of(**popqa, labels=aliases, target="t"))
    assert (config.data.columns.answer, config.task.kind) == ("target", "text")
    assert advice not in said and "passed over" not in said
    config, _, said = init(rows_of(question="q", answer=aliases, labels=aliases, target="t"))
    assert config.data.columns.answer == "target"
    assert "passed over for the answer: 'answer', whose answers are lists of texts" in said
    config, _, said = init(rows_of(question="q", answer=aliases, label=aliases, target="t"))
    assert "passed over for the answer: 'answer', 'label', whose answers are lists" in said
    assert advice in refused(rows_of(question="q", answer=aliases, label=aliases))
    marks = {"answer": lambda i: json.dumps(["A", "B"][: 1 + i % 2]), "category": "c"}
    for several in (
        {"options": lambda i: ["x", "y"]}, {"A": "x", "B": "y"}, {"option1": "x", "option2": "y"},
    ):  # fmt: skip
        assert advice in refused(rows_of(question="q", **several, **marks))
    # What is no such list in every row is an answer as it stands.
    for odd in ("none", '["a", 1]', '{"a": "b"}', '["a"', "[1, 2]"):
        rows = rows_of(question="q", answer=lambda i, odd=odd: aliases(i) if i else odd)
        assert advice not in init(rows)[2]
    rows = rows_of(question="q", answer=lambda i: json.dumps([f"alone {i}"]))
    assert advice not in init(rows)[2]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": "t", "label": lambda i: [i % 3]}, "the answer in 'label' is a list"),
        ({"messages": lambda i: [{"role": "user", "content": "x"}]}, "'messages' holds chats"),
        ({"question": lambda i: {"stem": "x"}, "answer": "a"}, "say which with --question"),
        ({"question": "q", "answer": lambda i: {"text": ["x"]}}, "say which with --answer"),
        (
            {"question": "q", "answer": lambda i: {"city": "x", "day": None}},
            "there are answer.city; or write it into a column of its own; an answer of several "
            "fields is JSON in one text",
        ),
        ({"question": "q", "answer": lambda i: []}, "write it into a column of its own, and name"),
        ({"question": "q", "answer": lambda i: None}, "the column 'answer', the answer, is empty"),
        ({"id": "i", "comment_text": "t", "toxic": lambda i: 0}, "name one with --answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_guessed_is_one_line(refused, columns, words) -> None:
    assert words in refused(rows_of(**columns))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label;text\nSport;Über uns\n", "parted by ';': 'label;text' is one column"),
        ("text,label\nx\n", "no readable row; first: row 1: 1 fields, and not the 2"),
        ("text\tlabel\nx\ta\n", r"parted by '\t'"),
        ('"4","Shares fall again","The market fell by four points on Monday."\n' * 3, "like a row"),
    ],
)
def test_files_without_names_or_with_other_signs_are_known(refused, text, words) -> None:
    assert words in refused(text)


def test_odd_names_and_places_are_read_back(tmp_path, capsys) -> None:
    name = 'tëxt😀 "q": #1\u2028'
    file, output = tmp_path / "lä😀.jsonl", tmp_path / "my: config #1.yaml"
    write_jsonl(file, *rows_of(**{name: "t", "label": lambda i: "ab"[i % 2], "x\n😀": "u"}))
    arguments = [f"--labeled={file}", f"--unlabeled={file}", f"--question={name}"]
    assert main(["init", *arguments, f"--output={output}"]) == 0
    config = load_config(output)
    assert (config.data.labeled, config.data.columns.question) == (str(file), name)
    assert config.run_dir == "runs/my: config #1"
    text = output.read_text(encoding="utf-8")
    assert "lä😀.jsonl" in text and '# not used: "x\\n😀"' in text
