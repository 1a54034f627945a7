"""Baselines: the base as it is and the warm model on the test set.

They depend on nothing that the rounds do, so another selection, another arm of a comparison or a
round more leaves them as they are. `evaluate` compares the evolved models with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config
from semievol_ray.stages.context import Context
from semievol_ray.stages.predictions import folder_of, predict_test
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.stages.shards import TALLIES
from semievol_ray.stages.stage import Outcome, Stage, tested_settings

NAME = "baselines"


def models(context: Context) -> dict[str, ModelRef]:
    """The models that are there before the first round, by the names the report gives them."""
    return {"vanilla": ModelRef(context.base), before_of(context.config): context.model("warm", 1)}


def before_of(config: Config) -> str:
    """What the report calls the model that labels first: of a continued run that one's own."""
    return "SFT" if config.continues is None else "earlier"


def run(context: Context, _: int) -> Outcome:
    """Write `<model>/shard-*.parquet` in the PREDICTION schema."""
    folder = context.folder(NAME)
    compared = models(context)
    context.progress.start(NAME, context.ingested.rows["test"] * len(compared), "answers")
    outputs: dict[str, int] = {}
    right: dict[str, float] = {}
    for name, model in compared.items():
        parts = predict_test(context, NAME, name, model, folder)
        outputs |= {target: len(part) for target, part in parts.items()}
        right[name] = pc.mean(pa.concat_tables(parts.values())["correct"]).as_py()
    context.progress.say(NAME, ", ".join(f"{n}: {share:.1%} right" for n, share in right.items()))
    return Outcome(outputs, {"right": right})


def predictions(context: Context) -> Iterator[tuple[str, pa.Table]]:
    """What each of them answered: its name and its PREDICTION table."""
    done = context.ledger.done(NAME)
    for name in models(context):
        folder = f"{done.folder}/{folder_of(name)}/"
        shards = sorted(shard for shard in done.outputs if shard.startswith(folder))
        yield name, pa.concat_tables([context.run.read_table(shard) for shard in shards])


STAGE = Stage(
    NAME,
    run,
    lambda config, _: tested_settings(config),
    lambda config, _: ["warmup", "retrieve"],
    writes=("*/shard-*.parquet", f"*/{TALLIES}", "*/replies/*"),
    in_round=False,
    works_with="engines",
    wanted=lambda config: config.data.test is not None,
)
