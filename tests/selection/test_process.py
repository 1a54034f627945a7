"""The extension as a citizen of a Python process: GIL, Ctrl-C, fork, threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import _native, selection

# Distinct texts that no short way takes: seconds of work.
SLOW = "I believe that it may well be the second of them, or so it seems " * 8


def slow_texts(rows=400_000):
    return pa.array([SLOW]).take(pa.array(np.zeros(rows, dtype=np.int32)))


def test_other_threads_run_meanwhile():
    ticks = 0
    done = threading.Event()

    def tick():
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    selection.extract_answers(slow_texts(), kind="text")
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    # With the GIL held there would be none or one.
    assert ticks > seconds * 20


def test_ctrl_c_stops_a_long_call_within_a_second():
    code = (
        "import time, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_process import slow_texts\n"
        "from semievol_ray import selection\n"
        "texts = slow_texts(4_000_000)\n"
        "print('go', flush=True)\n"
        "try:\n"
        "    selection.extract_answers(texts, kind='text')\n"
        "    print('finished')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    child = subprocess.Popen([sys.executable, "-c", code, here], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "go\n"
    time.sleep(0.5)
    start = time.perf_counter()
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=30)
    assert output == "interrupted\n"
    # One second for the call, the rest for the interpreter's end on a busy machine.
    assert time.perf_counter() - start < 3


def _nll(queue):
    array = pa.array([[-1.0]] * 50_000, pa.list_(pa.float32()))
    queue.put(sum(selection.mean_nll(array).to_pylist()))


def test_a_fork_makes_its_own_threads():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    _nll(queue)
    assert queue.get(timeout=60) == 50_000
    child = context.Process(target=_nll, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 50_000
    child.join(timeout=60)
    assert child.exitcode == 0


def test_threads_come_from_the_grant_and_change_no_bits(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert selection.num_threads() == 3
    monkeypatch.setenv("SEMIEVOL_NUM_THREADS", "2")
    assert selection.num_threads() == 2
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 90, 30_000))]).astype(np.int32)
    values = -rng.random(offsets[-1], dtype=np.float32)
    array = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    results = []
    try:
        for threads in (1, 2, 5):
            selection.set_num_threads(threads)
            assert selection.num_threads() == threads
            results.append(selection.mean_nll(array))
    finally:
        selection.set_num_threads(0)
    assert results[0].equals(results[1]) and results[0].equals(results[2])


def test_every_way_to_add_up_gives_the_same_bits():
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 300, 5_000))]).astype(np.int32)
    values = -rng.random(offsets[-1], dtype=np.float32)
    array = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    chosen, results = _native._way(), []
    try:
        for way in ("portable", "avx2", "avx512"):
            try:
                assert _native._way(way) == way
            except ValueError as error:
                assert "no way of this machine" in str(error)
                continue
            results.append(selection.mean_nll(array))
        with pytest.raises(ValueError, match="no way of this machine"):
            _native._way("abacus")
    finally:
        assert _native._way("fastest") == chosen
    assert all(result.equals(results[0]) for result in results)


@pytest.mark.parametrize("wrong", ["0", "-1", "many", ""])
def test_a_thread_count_that_is_none_is_refused(monkeypatch, wrong):
    monkeypatch.setenv("SEMIEVOL_NUM_THREADS", wrong)
    with pytest.raises(ValueError, match=f'SEMIEVOL_NUM_THREADS: "{wrong}" is not a number'):
        selection.num_threads()
    monkeypatch.delenv("SEMIEVOL_NUM_THREADS")
    # OpenMP's own variable is read as OpenMP reads it: what it cannot use counts for nothing.
    monkeypatch.setenv("OMP_NUM_THREADS", wrong)
    assert selection.num_threads() == os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert selection.num_threads() == 3


def test_a_change_of_the_thread_count_leaves_no_threads_behind():
    def ours():
        names = Path("/proc/self/task").glob("*/comm")
        return sum(name.read_text().startswith("semievol-") for name in names)

    array = pa.array([[-1.0]] * 50_000, pa.list_(pa.float32()))
    try:
        for turn in range(30):
            selection.set_num_threads(2 + turn % 3)
            selection.mean_nll(array)
        for _ in range(100):
            if ours() <= 4:
                break
            time.sleep(0.1)
        assert ours() <= 4
    finally:
        selection.set_num_threads(0)


# Seconds and more of work in fewer rows than a block has: many long texts, and one on which this
# pattern is quadratic in any engine.
LONG = [
    "['a' * 3_000_000], pattern='[a-z]+[0-9]|[a-z]'",
    "pa.array([SLOW * 40]).take(pa.array([0] * 8_000))",
]


@pytest.mark.parametrize("call", LONG)
def test_ctrl_c_is_heard_whatever_the_number_of_rows(call):
    code = (
        "import sys\n"
        "import pyarrow as pa\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_process import SLOW\n"
        "from semievol_ray import selection\n"
        "print('go', flush=True)\n"
        "try:\n"
        f"    selection.extract_answers({call}, kind='text')\n"
        "    print('finished')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    child = subprocess.Popen([sys.executable, "-c", code, here], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "go\n"
    time.sleep(0.5)
    start = time.perf_counter()
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert output == "interrupted\n"
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_panic_is_an_exception_and_the_process_lives(rows):
    for _ in range(3):
        with pytest.raises(RuntimeError, match=rf"row {rows - 1} was asked to panic$"):
            _native._panic(rows)
    # The pool that it happened in still works.
    array = pa.array([[-1.0]] * 50_000, pa.list_(pa.float32()))
    assert sum(selection.mean_nll(array).to_pylist()) == 50_000


def test_a_wrong_type_is_an_error_of_one_line():
    for wrong in (pa.array([1, 2]), pa.array(["x"])):
        with pytest.raises(ValueError, match="expected lists"):
            selection.mean_nll(wrong)
    with pytest.raises(ValueError, match="expected texts"):
        selection.extract_answers(pa.array([1]), kind="text")


def test_selection_alone_needs_no_engine():
    code = (
        "import sys\n"
        "from semievol_ray import selection\n"
        "print({'torch', 'ray', 'transformers', 'faiss', 'pydantic', 'yaml'} & set(sys.modules))\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "set()\n"
