"""A real S3-speaking server on loopback, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from pyarrow import fs

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[int]:
    """Its port. What Flask leaves in a process, vLLM stumbles over: so it has one of its own."""
    port = free_port()
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and moto.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            break
        time.sleep(0.1)
    yield port
    moto.terminate()
    moto.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_bucket(port: int, host: str = "127.0.0.1") -> None:
    """The bucket `bucket`. CREDENTIALS must be in the environment."""
    assert os.environ["AWS_ACCESS_KEY_ID"]
    client = fs.S3FileSystem(
        endpoint_override=f"{host}:{port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    client.create_dir("bucket", recursive=False)


def uri(port: int, name: str, host: str = "127.0.0.1") -> str:
    """A folder of the bucket."""
    return (
        f"s3://bucket/runs/{name}?scheme=http&region=us-east-1&endpoint_override={host}%3A{port}"
        "&allow_bucket_creation=true"
    )
