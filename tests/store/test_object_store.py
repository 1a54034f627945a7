"""A run in an object store: a real S3 client against an S3-speaking server on loopback."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest
from pyarrow import fs

from semievol_ray import SemiEvolError, UserError, load_config, pipeline
from semievol_ray.demo import write_demo_data
from semievol_ray.results import Run
from semievol_ray.store import RunDirectory

TABLE = pa.table({"example_id": ["a", "b"], "n": [1, 2]})


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server, in a process of its own.

    What Flask leaves in a process, vLLM stumbles over when it looks for its kernels in there.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and moto.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    yield port
    moto.terminate()
    moto.wait(timeout=30)


@pytest.fixture
def run_uri(server, monkeypatch, tmp_path) -> str:
    """A run directory in a new bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{server}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    client.create_dir("bucket", recursive=False)
    return uri(server, tmp_path.name)


def uri(port: int, name: str) -> str:
    return (
        f"s3://bucket/runs/{name}?scheme=http&region=us-east-1&endpoint_override=127.0.0.1%3A{port}"
        "&allow_bucket_creation=true"
    )


def test_files_appear_whole_and_go_again(run_uri) -> None:
    run = RunDirectory(run_uri)
    assert run.write_table("data/x.parquet", TABLE) == 2
    assert run.read_table("data/x.parquet").equals(TABLE)
    assert run.row_count("data/x.parquet") == 2 and run.row_count("data/y.parquet") is None
    run.write_json("manifests/x.json", {"rows": 2})
    assert run.read_json("manifests/x.json") == {"rows": 2}
    assert run.read_json("manifests/y.json") is None
    assert run.files("data", ".parquet") == ["data/x.parquet"]
    with run.new_folder("model") as folder:
        (folder / "weights").write_text("all")
    assert (run.local_folder("model") / "weights").read_text() == "all"
    run.delete_owned("data", ["data/x.parquet"], ())
    assert not run.exists("data/x.parquet")


def test_a_run_is_ingested_continued_and_read(run_uri, tmp_path, tiny_model) -> None:
    write_demo_data(tmp_path, 0)
    config = load_config(
        {
            "run_dir": run_uri,
            "model": {"name": str(tiny_model), "engine": "transformers"},
            "task": {"kind": "label"},
            "data": {
                "labeled": str(tmp_path / "labeled.csv"),
                "unlabeled": str(tmp_path / "unlabeled.csv"),
                "columns": {"question": "message", "answer": "team"},
                "shard_rows": 500,
            },
        }
    )
    pipeline.run(config, until="ingest")
    run = Run(run_uri)
    assert len(run.examples("unlabeled")) == 1440
    (first,) = run.manifests
    pipeline.run(config, until="ingest")
    assert Run(run_uri).manifests == [first]


class Unreliable(BaseHTTPRequestHandler):
    """Hands every request on to the server behind it, but refuses some uploads with a 503."""

    protocol_version = "HTTP/1.1"  # clients ask before they upload: "Expect: 100-continue"
    behind = 0
    refusals = 0

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        del self.headers["Transfer-Encoding"]
        return b"".join(chunks)

    def hand_on(self) -> None:
        body = self.body()
        if self.command == "PUT" and Unreliable.refusals > 0:
            Unreliable.refusals -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", Unreliable.behind)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        content = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        # What a HEAD reports is not the length of its own, empty, body.
        length = reply.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = hand_on

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def unreliable(server, run_uri, tmp_path) -> Iterator[str]:
    Unreliable.behind = server
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield uri(proxy.server_port, tmp_path.name)
    Unreliable.refusals = 0
    proxy.shutdown()


def test_a_busy_store_is_asked_again(unreliable) -> None:
    run = RunDirectory(unreliable)
    Unreliable.refusals = 2
    run.write_table("data/late.parquet", TABLE)
    assert Unreliable.refusals == 0
    assert run.read_table("data/late.parquet").equals(TABLE)


def test_a_store_that_stays_busy_is_one_line_and_nothing_is_there(unreliable) -> None:
    run = RunDirectory(unreliable)
    Unreliable.refusals = 1000
    with pytest.raises(SemiEvolError, match="data/never.parquet: cannot be written") as caught:
        run.write_table("data/never.parquet", TABLE)
    assert "\n" not in str(caught.value)
    Unreliable.refusals = 0
    assert run.row_count("data/never.parquet") is None


def test_credentials_do_not_belong_into_a_uri() -> None:
    with pytest.raises(UserError, match="credentials") as caught:
        RunDirectory("s3://key:hush@bucket/run")
    assert "hush" not in str(caught.value)
