"""Ingest of a million rows of JSON lines, beside Ray Data and datatrove, and in an object store.

The peers read and drop repetitions; ours checks each row too, says what it left out, and cuts
shards of one size in the order of the files. The extra `benchmarks` has datatrove. The object store
is an S3-speaking server on this machine, written in Python.
"""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.report import Row, arguments, interleaved, report, row
from benchmarks.corpus.peers import with_datatrove, with_ray_data
from benchmarks.corpus.pipeline import CPUS, corpus_config, timed
from benchmarks.corpus.texts import write_corpus, write_labels
from semievol_ray.config import Config, RayConfig
from semievol_ray.pipeline import run as run_stages
from semievol_ray.ray_session import connect
from semievol_ray.results import Run

ROWS = 1_000_000


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--repeats", type=int, default=3)

    args = arguments(__doc__, add)
    report(
        [*beside_peers(args), *in_a_bucket()],
        repeats=args.repeats,
        packages=("ray", "pyarrow", "datatrove"),
        json_path=args.json,
        notes=[f"{CPUS} CPUs; a row has 100 bytes; one in fifty repeats another"],
    )


def beside_peers(args: Namespace) -> Iterator[Row]:
    """Ingest, and reading with exact deduplication by others, in turn."""
    connect(RayConfig(num_cpus=CPUS))
    with tempfile.TemporaryDirectory() as root:
        different = write_corpus(Path(root) / "corpus", ROWS)
        write_labels(Path(root) / "labels.jsonl")
        count = 0

        def side(work: Callable[[Path], int]) -> Callable[[], None]:
            def once() -> None:
                nonlocal count
                count += 1
                assert work(Path(root) / f"out-{count}") == different

            return once

        def ours(into: Path) -> int:
            config = corpus_config(Path(root) / "corpus", Path(root) / "labels.jsonl", str(into))
            return ingested_rows(config)

        peers = {"Ray Data": with_ray_data, "datatrove": with_datatrove}
        sides = {"ours": side(ours)} | {
            name: side(lambda into, peer=peer: peer(Path(root) / "corpus", into, CPUS))  # type: ignore[misc]
            for name, peer in peers.items()
        }
        seconds = interleaved(sides, repeats=args.repeats, warm_up=0)
    for name in peers:
        claim = f"ingest, {ROWS:,} rows"
        yield row(claim, ROWS / seconds["ours"], ROWS / seconds[name], name, unit="rows/s")


def in_a_bucket() -> Iterator[Row]:
    """Ingest out of and into an S3-speaking server on this machine, beside the local disk."""
    from pyarrow import fs

    from tests.object_store import CREDENTIALS, make_bucket, s3_server, uri

    os.environ.update(CREDENTIALS)
    rows = ROWS // 10
    with tempfile.TemporaryDirectory() as root, s3_server() as port:
        make_bucket(port)
        write_corpus(Path(root) / "corpus", rows)
        write_labels(Path(root) / "labels.jsonl")
        filesystem, path = fs.FileSystem.from_uri(uri(port, "in"))
        fs.copy_files(root, path, destination_filesystem=filesystem)
        seconds: dict[str, float] = {}
        places = {"a bucket": lambda name: uri(port, name), "disk": lambda name: f"{root}/{name}"}
        for place, at in places.items():
            prefix = "in/" if place == "a bucket" else ""
            config = corpus_config(at(f"{prefix}corpus"), at(f"{prefix}labels.jsonl"), at("run"))
            with timed(seconds, place):
                ingested_rows(config)
    claim = f"ingest, {rows:,} rows, a bucket"
    yield row(claim, rows / seconds["a bucket"], rows / seconds["disk"], "disk", unit="rows/s")


def ingested_rows(config: Config) -> int:
    """Ingest, and say how many rows there are."""
    statistics: Any = Run(run_stages(config, until="ingest").uri).manifests[0].statistics
    return int(statistics["rows"]["unlabeled"])


if __name__ == "__main__":
    main()
