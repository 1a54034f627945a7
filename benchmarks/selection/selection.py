"""Selection against polars, duckdb, numpy, pyarrow, per-row Python and the memory itself.

Sides take turns, medians of seven. Every side gets the same Arrow buffers.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmarks.common.report import Row, arguments, interleaved, report, row
from semievol_ray import _native, selection
from semievol_ray.schema import RESPONSE
from semievol_ray.selection.policies import Paper

REPEATS = 7
PATTERN = r"(?i)answer\s*:\s*([A-D])"
N = 4


def main() -> None:
    args = arguments(__doc__)
    rows: list[Row] = []
    for mean, lists, goal in ((31, 2_000_000, 0.65), (256, 250_000, 0.90)):
        rows += mean_nll(mean, lists, goal)
        rows += ways(mean, lists)
    rows += scaling()
    rows += checks()
    rows += grouping()
    rows += whole_selection()
    rows += reselection(2_500_000)
    report(
        rows,
        repeats=REPEATS,
        packages=["pyarrow", "polars", "duckdb", "numpy"],
        json_path=args.json,
        notes=[
            "medians; the sides of a claim took turns in one process",
            "GB/s counts the bytes of the float32 values alone",
            f"{_native.num_threads()} threads unless said otherwise",
            f"float lists are added up by {_native._way()}, the fastest way on this processor",
        ],
    )


def logprobs(mean: int, lists: int) -> tuple[pa.ListArray, pa.Array]:
    """Lists of Poisson lengths, at least 1, and their values."""
    rng = np.random.default_rng(0)
    offsets = np.zeros(lists + 1, np.int32)
    offsets[1:] = np.cumsum(rng.poisson(mean, lists).clip(1))
    values = pa.array(-rng.standard_exponential(offsets[-1], dtype=np.float32))
    return pa.ListArray.from_arrays(pa.array(offsets), values), values


def mean_nll(mean: int, lists: int, goal: float) -> list[Row]:
    array, values = logprobs(mean, lists)
    frame = pl.DataFrame({"x": pl.from_arrow(array)}).lazy()
    table = pa.table({"x": array})
    offsets = array.offsets.to_numpy()
    flat = values.to_numpy()
    lengths = np.diff(offsets)
    parents = pa.array(np.repeat(np.arange(lists, dtype=np.int32), lengths))
    connection = duckdb.connect()
    connection.execute(f"set threads = {_native.num_threads()}")
    sides = {
        "ours": lambda: selection.mean_nll(array),
        "read-only pass in Rust": lambda: _native._read(values),
        "polars list.mean": lambda: frame.select(-pl.col("x").list.mean()).collect(),
        "numpy add.reduceat": lambda: -np.add.reduceat(flat, offsets[:-1]) / lengths,
        "pyarrow group_by mean": lambda: (
            pa.table({"p": parents, "x": values}).group_by("p").aggregate([("x", "mean")])
        ),
        "duckdb list_avg": lambda: connection.sql(
            "select -list_avg(x) as h from table_"
        ).to_arrow_table(),
    }
    connection.register("table_", table)
    seconds = interleaved(sides, repeats=REPEATS)
    speed = {name: flat.nbytes / s / 1e9 for name, s in seconds.items()}
    return [
        row(
            f"mean NLL, mean length {mean}",
            speed["ours"],
            speed[name],
            name,
            unit="GB/s",
            goal=goal if name.startswith("read") else None,
        )
        for name in sides
        if name != "ours"
    ]


def ways(mean: int, lists: int) -> list[Row]:
    """Mean NLL each way that this processor has, on one thread, against a read-only pass."""
    array, values = logprobs(mean, lists)

    def go(way: str) -> None:
        _native._way(way)
        selection.mean_nll(array)

    here = [way for way in ("avx512", "avx2", "portable") if _is_here(way)]
    _native.set_num_threads(1)
    sides = {way: partial(go, way) for way in here} | {"read": lambda: _native._read(values)}
    seconds = interleaved(sides, repeats=REPEATS)
    _native.set_num_threads(0)
    _native._way("fastest")
    speed = {name: values.nbytes / s / 1e9 for name, s in seconds.items()}
    return [
        row(
            f"mean NLL, mean length {mean}, {way}, 1 thread",
            speed[way],
            speed["read"],
            "read-only pass in Rust",
            unit="GB/s",
        )
        for way in here
    ]


def _is_here(way: str) -> bool:
    try:
        _native._way(way)
    except ValueError:
        return False
    return True


def scaling() -> list[Row]:
    """Mean NLL over 1 and 2 threads, and over sizes."""
    out = []
    array, values = logprobs(31, 2_000_000)
    size = values.nbytes

    def on(threads: int) -> None:
        _native.set_num_threads(threads)
        selection.mean_nll(array)

    seconds = interleaved({"1": lambda: on(1), "2": lambda: on(2)}, repeats=REPEATS)
    _native.set_num_threads(0)
    speed = {name: size / s / 1e9 for name, s in seconds.items()}
    out.append(row("mean NLL, 2 threads", speed["2"], speed["1"], "ours, 1 thread", unit="GB/s"))
    del array, values
    rates = {}
    for responses in (100_000, 1_000_000, 10_000_000):
        array, _ = logprobs(31, responses)
        seconds = interleaved({"ours": partial(selection.mean_nll, array)}, repeats=REPEATS)
        rates[responses] = responses / seconds["ours"] / 1e6
    for responses in (1_000_000, 10_000_000):
        claim = f"mean NLL, {responses:.0e} responses"
        out.append(
            row(
                claim, rates[responses], rates[100_000], "ours, 1e5 responses", unit="M responses/s"
            )
        )
    return out


def checks() -> list[Row]:
    """What it costs to check foreign text and offsets as they come in."""
    rng = np.random.default_rng(2)
    words = ["profit", "rose", "to", "EUR", "13.1", "mn", "in", "the", "period", "–", "Überschuss"]
    ascii_only = [word for word in words if word.isascii()]
    out = []
    for name, known in (("ASCII", ascii_only), ("one word in ten not ASCII", words)):
        drawn = rng.integers(0, len(known), (20_000, 24))
        texts = pa.array([" ".join(known[i] for i in line) for line in drawn])
        texts = texts.take(pa.array(np.tile(np.arange(20_000), 40)))
        size = texts.get_total_buffer_size()
        seconds = interleaved(
            {
                "checked": partial(_native._check, texts),
                "pyarrow": partial(texts.validate, full=True),
                "answers": partial(selection.extract_answers, texts, kind="numeric"),
            },
            repeats=REPEATS,
        )
        speed = {side: size / s / 1e9 for side, s in seconds.items()}
        claim = f"text and offsets checked, {name}"
        out += [
            row(claim, speed["checked"], speed["pyarrow"], "pyarrow validate(full)", unit="GB/s"),
            row(
                f"share of the check in reading numbers, {name}",
                100 * seconds["checked"] / seconds["answers"],
                None,
                "–",
                unit="%",
            ),
        ]
    return out


def grouping() -> list[Row]:
    """Groups over 1 M examples x 4 rows in any order, against pyarrow's dictionary_encode, which
    finds equal ids but neither sorts them nor gives their rows."""
    rng = np.random.default_rng(3)
    n = 1_000_000
    site = "https://www.site{}.example.org/articles/{}/item-{:07}?ref=feed"
    forms = {
        "example-00000001": [f"example-{i:08}" for i in range(n)],
        "16 hex digits": [f"{x:016x}" for x in rng.integers(0, 2**63, n)],
        "URLs": [site.format(i % 977, i % 31, i * 7919 % n) for i in range(n)],
    }
    out = []
    for name, ids in forms.items():
        order = rng.permutation(np.repeat(np.arange(n), N))
        column = pa.array(ids).take(pa.array(order))
        seconds = interleaved(
            {
                "ours": partial(selection.Groups, column),
                "pyarrow": column.dictionary_encode,
            },
            repeats=REPEATS,
        )
        out.append(
            row(
                f"groups of 4 M shuffled rows, ids as {name}",
                seconds["ours"],
                seconds["pyarrow"],
                "pyarrow dictionary_encode",
                unit="s",
                goal=1 if name == "URLs" else 2,
                smaller_is_better=True,
            )
        )
    return out


def responses_table(examples: int, lists: pa.ListArray | None = None) -> pa.Table:
    """A table of responses, four for each example, about one in twelve without an answer."""
    rng = np.random.default_rng(1)
    rows = examples * N
    if lists is None:
        lists, _ = logprobs(31, rows)
    ids = pa.array([f"example-{i:08}" for i in range(examples)])
    texts = pa.array([f"Answer: {c}" for c in "ABCD"] * 3 + ["I do not know."])
    # Collaborators mostly agree.
    truth = np.repeat(rng.integers(0, 4, examples), N)
    drawn = np.where(rng.random(rows) < 0.6, truth, rng.integers(0, 13, rows))
    return pa.table(
        {
            "example_id": ids.take(pa.array(np.repeat(np.arange(examples), N))),
            "text": texts.take(pa.array(drawn)),
            "tokens": lists.value_lengths(),
            "token_logprobs": lists,
        }
    )


def ours(table: pa.Table) -> pa.Table:
    answers = selection.extract_answers(table["text"], kind="multiple_choice", pattern=PATTERN)
    return selection.select(
        table.append_column("answer", answers),
        None,
        policy=Paper(percentile=50.0),
        kind="multiple_choice",
    )


def in_polars(frame: pl.LazyFrame) -> pl.DataFrame:
    """The same in polars' native expressions: answer, votes, winner, its entropy, threshold."""
    votes = (
        frame.with_columns(
            answer=pl.col("text").str.extract(PATTERN, 1).str.to_uppercase(),
            nll=-pl.col("token_logprobs").list.mean(),
        )
        .drop_nulls("answer")
        .group_by("example_id", "answer")
        .agg(votes=pl.len(), nll=pl.col("nll").min())
        .sort("votes", "nll", descending=[True, False])
        .group_by("example_id", maintain_order=True)
        .agg(
            pseudo_answer=pl.col("answer").first(),
            entropy=pl.col("nll").first(),
            n_valid=pl.col("votes").sum(),
            agreement=pl.col("votes").first() / pl.col("votes").sum(),
            margin=(pl.col("votes").first() - pl.col("votes").get(1, null_on_oob=True).fill_null(0))
            / pl.col("votes").sum(),
            vote_entropy=(pl.col("votes") / pl.col("votes").sum()).entropy(normalize=False),
        )
    )
    return (
        frame.select("example_id")
        .unique()
        .join(votes, on="example_id", how="left")
        .with_columns(
            selected=(
                pl.col("entropy") <= pl.col("entropy").quantile(0.5, interpolation="linear")
            ).fill_null(False)
        )
        .sort("example_id")
        .collect()
    )


def in_python(ids: list[str], texts: list[str], logprobs: list[list[float]]) -> int:
    """Row by row, as a research script does it: regex, Counter, numpy mean, np.percentile."""
    examples: dict[str, list[tuple[str, float]]] = {}
    for example_id, text, values in zip(ids, texts, logprobs, strict=True):
        votes = examples.setdefault(example_id, [])
        match = re.search(PATTERN, text)
        if match:
            array = np.array(values)
            votes.append((match.group(1).upper(), -np.sum(array) / len(array)))
    entropies = {}
    for example_id, votes in examples.items():
        if votes:
            winner = Counter(answer for answer, _ in votes).most_common(1)[0][0]
            entropies[example_id] = min(nll for answer, nll in votes if answer == winner)
    threshold = np.percentile(list(entropies.values()), 50)
    return sum(bool(entropy <= threshold) for entropy in entropies.values())


def whole_selection() -> list[Row]:
    table = responses_table(500_000)
    frame = pl.DataFrame(table).lazy()
    got, peer = ours(table), in_polars(frame)
    assert got["n_valid"].to_numpy().tolist() == peer["n_valid"].fill_null(0).to_list()
    assert abs(pc.sum(got["selected"]).as_py() - peer["selected"].sum()) <= 2
    seconds = interleaved(
        {"ours": lambda: ours(table), "polars": lambda: in_polars(frame)}, repeats=REPEATS
    )
    # Per-row Python on a tenth, once more in Python's own objects: it is linear in the rows.
    part = table.slice(0, table.num_rows // 10)
    objects = [part[name].to_pylist() for name in ("example_id", "text", "token_logprobs")]
    python = []
    for _ in range(3):
        start = time.perf_counter()
        in_python(*objects)
        python.append(time.perf_counter() - start)
    claim = "whole selection, 500k examples x 4 responses"
    ours_s = seconds["ours"]
    return [
        row(
            claim,
            ours_s,
            seconds["polars"],
            "polars, lazy",
            unit="s",
            goal=8,
            smaller_is_better=True,
        ),
        row(
            claim,
            ours_s,
            statistics.median(python) * 10,
            "per-row Python, 10 x a tenth (median of 3)",
            unit="s",
            goal=150,
            smaller_is_better=True,
        ),
    ]


def reselection(examples: int) -> list[Row]:
    """A finished run of 10 M responses in Parquet shards under another percentile."""
    shards = 50
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for shard in range(shards):
            table = responses_table(examples // shards)
            answers = selection.extract_answers(
                table["text"], kind="multiple_choice", pattern=PATTERN
            )
            ids = pc.binary_join_element_wise(f"shard-{shard:03}", table["example_id"], "-")
            table = pa.table(
                {
                    **{name: table[name] for name in ("text", "tokens", "token_logprobs")},
                    "example_id": ids,
                    "answer": answers,
                }
            )
            path = str(Path(folder) / f"{shard:03}.parquet")
            pq.write_table(table, path)
            paths.append(path)
        start = time.perf_counter()
        selected = 0
        for part in selection.select_shards(
            paths,
            None,
            filesystem=pafs.LocalFileSystem(),
            policy=Paper(percentile=30.0),
            kind="multiple_choice",
        ):
            selected += pc.sum(part["selected"]).as_py()
        seconds = time.perf_counter() - start
    print(f"re-selection kept {selected} of {examples} examples")
    claim = f"re-selection of {examples * N / 1e6:.0f} M responses from {shards} Parquet shards"
    return [row(claim, seconds, None, "–", unit="s")]


assert RESPONSE.field("token_logprobs").type == pa.list_(pa.float32())

if __name__ == "__main__":
    main()
