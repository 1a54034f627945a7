"""The sides of the generation benchmark: our path, bare vLLM and ray.data.llm.

`python -m benchmarks.generation.sides serve FOLDER` is bare offline vLLM in a process of its own,
which takes one JSON command a line and keeps its engine loaded; `once FOLDER NUMBER` loads it,
answers as one collaborator and ends; `whole FOLDER` is our run of all the collaborators, from
nothing to the end. The prefix cache is emptied before every timed call: a run meets each prompt
for the first time.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.data import ROOT
from benchmarks.generation.workload import MAX_TOKENS, SHARD_ROWS, job, model_config, requests_of
from semievol_ray.config import GenerationConfig, RayConfig
from semievol_ray.engines import Batch, Engine, EnginePool, Request, Sampling
from semievol_ray.engines.vllm_engine import VllmEngine, _Answer
from semievol_ray.stages.answering import ShardJob, answer_shard
from semievol_ray.stages.counts import Counts
from semievol_ray.store import RunDirectory, layout

# What our engine asks of vLLM on a CPU; every side is given the same.
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "enable_prefix_caching": True,
    "enable_chunked_prefill": False,
    "block_size": 32,
}
# Both cores of a small machine, as vLLM itself would have it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    "RAY_worker_niceness": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


# -- our side --------------------------------------------------------------------------------------


class Silent(VllmEngine):
    """Our engine without logprobs, which the product never asks for."""

    async def _generate(
        self,
        prompt: list[int],
        request: Request,
        sampling: Sampling,
        lora: Any,
        choices: Sequence[str] | None = None,
    ) -> _Answer:
        from vllm import SamplingParams

        parameters = SamplingParams(
            temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=request.seed
        )
        final = await self._last(prompt, parameters, lora)
        ids = list(final.outputs[0].token_ids)
        return _Answer("length", ids, [], len(ids))


async def answer_silently(engine: Any, work: ShardJob, pair: tuple[str, str]) -> tuple[str, Counts]:
    silent = copy.copy(engine._engine)
    silent.__class__ = Silent
    return await answer_shard(silent, work, pair)


async def forget(engine: Any, _: None) -> None:
    engine._engine.driver.engine.reset_prefix_cache()


async def texts(
    engine: Engine, requests: list[Request], sampling: Sampling, rows: int
) -> list[str | None]:
    """The texts of the requests, `rows` of them a call."""
    found: list[str | None] = []
    for start in range(0, len(requests), rows):
        replies = await engine.answer(Batch(requests[start : start + rows], sampling))
        assert replies.generated is not None
        found += replies.generated["text"].to_pylist()
    return found


class Ours:
    """The generate stage's own path over a pool of one replica, which stays loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = EnginePool(
            model_config(folder, "vllm"),
            GenerationConfig(max_tokens=MAX_TOKENS, cpus_per_replica=2),
            RunDirectory(str(folder / "run")),
            log_folder=folder / "logs",
        )
        start = time.perf_counter()
        self.forget()
        self.load_seconds = time.perf_counter() - start

    def forget(self) -> None:
        list(self.pool.map(forget, [None]))

    def __call__(self, work: Any = answer_shard, *, score_options: bool = False) -> dict[str, Any]:
        """Answer every shard under every collaborator; tokens and seconds."""
        shards = job(self.folder, score_options=score_options)
        out = f"out-{uuid.uuid4().hex}"
        sources = shards.run.files("data/unlabeled", ".parquet")
        pairs = [(source, layout.same_shard(source, out)) for source in sources]
        self.forget()
        start = time.perf_counter()
        tokens = sum(counts.tokens for _, counts in self.pool.map(work, pairs, shards))
        return {"tokens": tokens, "seconds": time.perf_counter() - start}

    def texts(self, requests: list[Request], sampling: Sampling, rows: int) -> list[str | None]:
        (found,) = self.pool.map(texts, [rows], requests, sampling)
        return list(found)


def start_ray() -> None:
    from semievol_ray.ray_session import connect

    connect(RayConfig(num_cpus=8))


def whole(folder: Path) -> None:
    start_ray()
    ours = Ours(folder)
    print(json.dumps(ours()))
    ours.pool.close()


# -- bare vLLM -------------------------------------------------------------------------------------


class Bare:
    """Bare offline vLLM that serves from a process of its own."""

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        self.log = (folder / "bare.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generation.sides", "serve", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._answer()
        self.load_seconds = time.perf_counter() - start

    def __call__(self, logprobs: int | None = 0) -> dict[str, Any]:
        """Answer every request; tokens and seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"logprobs": logprobs}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):  # vLLM's own words go to the same stream
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"bare vLLM ended; see {self.log.name}")


def load_bare(folder: Path) -> Any:
    from vllm import LLM

    return LLM(model=str(folder / "model"), **ENGINE)


def ask_bare(engine: Any, requests: list[Request], logprobs: int | None) -> dict[str, Any]:
    """All the requests at once; their texts, tokens and seconds."""
    from vllm import SamplingParams

    parameters = [
        SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS, seed=r.seed, logprobs=logprobs)
        for r in requests
    ]
    engine.reset_prefix_cache()
    start = time.perf_counter()
    outputs = engine.generate([r.prompt for r in requests], parameters, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
    return {"seconds": seconds, "tokens": tokens}


def serve(folder: Path) -> None:
    engine = load_bare(folder)
    requests = requests_of(folder)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        print(json.dumps(ask_bare(engine, requests, json.loads(line)["logprobs"])), flush=True)


def once(folder: Path, number: int) -> None:
    requests = requests_of(folder, range(number, number + 1))
    print(json.dumps(ask_bare(load_bare(folder), requests, 0)))


# -- ray.data.llm ----------------------------------------------------------------------------------


def ray_data(folder: Path, requests: list[Request]) -> dict[str, Any]:
    """The same through ray.data.llm: its seconds from the first request's arrival, and in all."""
    import logging

    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    config = vLLMEngineProcessorConfig(
        model_source=str(folder / "model"),
        engine_kwargs=dict(ENGINE),
        placement_group_config={"bundle_per_worker": {"CPU": 1}},  # the default wants a GPU
        batch_size=SHARD_ROWS,
        log_engine_metrics=False,
        chat_template_stage=False,
        runtime_env={"env_vars": ENVIRONMENT},
    )
    sampling = {"temperature": 1.0, "max_tokens": MAX_TOKENS, "logprobs": 0}

    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": row["prompt"], "sampling_params": sampling | {"seed": row["seed"]}}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "text": row["generated_text"],
            "tokens": row["num_generated_tokens"],
            "logprobs": row["logprobs"],
            "arrived": row["metrics"]["arrival_time"],
            "written": time.time(),
        }

    processor = build_processor(config, preprocess=before, postprocess=after)
    rows = [{"prompt": r.prompt, "seed": r.seed} for r in requests]
    start = time.perf_counter()
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows) // SHARD_ROWS)
    found = processor(dataset).materialize()
    total = time.perf_counter() - start
    columns = found.select_columns(["tokens", "arrived", "written"]).to_pandas()
    return {
        "total_seconds": total,
        "seconds": float(columns["written"].max() - columns["arrived"].min()),
        "tokens": int(columns["tokens"].sum()),
    }


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "serve":
        serve(folder)
    elif what == "once":
        once(folder, int(sys.argv[3]))
    else:
        whole(folder)
