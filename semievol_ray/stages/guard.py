"""Guard: is a round's model no worse than the one before it, on labels that neither has seen?

Both answer the labels that are held out (`calibration.share` of each class). Where the round's is
significantly worse, by McNemar's exact test on the rows that they differ on, the round is rolled
back: its model does not count, and no round follows. Few labels show great harm only: of 90, on
which the two differ on ten, nine have to be lost.

The first round is compared with the stage `holdout`'s model. What labelled the corpus has seen
these labels, so that a near copy of one among the selected rows may speak for the round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from semievol_ray.config import Config
from semievol_ray.stages import holdout
from semievol_ray.stages.context import Context
from semievol_ray.stages.held_out import WRITES, write_held_out, write_neighbours
from semievol_ray.stages.predictions import predict
from semievol_ray.stages.run_view import GUARD
from semievol_ray.stages.shards import TALLIES
from semievol_ray.stages.stage import Outcome, Stage, tested_settings
from semievol_ray.stages.statistics import SIGNIFICANCE, mcnemar_worse
from semievol_ray.store import layout
from semievol_ray.touches import of_result


def run(context: Context, round_number: int) -> Outcome:
    """Write both models' answers in the PREDICTION schema; the verdict is in the statistics."""
    folder = context.folder(layout.round_stage(round_number, GUARD))
    sources = write_held_out(context, folder)
    shots = context.config.evaluation.shots
    neighbours = write_neighbours(context, folder, sources, shots)
    compared = {"before": _before(round_number), "after": _after(round_number)}
    context.progress.start(GUARD, 2 * sum(sources.values()), "answers")
    outputs, right = dict(sources), {}
    for name, stage in compared.items():
        model = context.trained(stage)
        parts = predict(context, GUARD, name, model, sources, neighbours, f"{folder}/{name}")
        outputs |= {target: len(part) for target, part in parts.items()}
        right[name] = pa.concat_tables(parts.values())["correct"].to_pylist()
    verdict = judge(right["before"], right["after"])
    context.progress.say(GUARD, _line(round_number, verdict))
    return Outcome(outputs, verdict)


def judge(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """Whether the second model is kept, with the counts that say so."""
    lost, won, p = mcnemar_worse(before, after)
    return {
        "kept": p >= SIGNIFICANCE,
        "labels": len(before),
        "right_before": sum(before),
        "right_after": sum(after),
        "won": won,
        "lost": lost,
        "p_worse": p,
    }


def _line(round_number: int, verdict: Mapping[str, Any]) -> str:
    said = "kept" if verdict["kept"] else "rolled back; no round follows"
    return (
        f"round {round_number}: {verdict['right_after']} of {verdict['labels']} held-out labels "
        f"right, {verdict['right_before']} before it ({verdict['won']} won, {verdict['lost']} "
        f"lost, p = {verdict['p_worse']:.2g} of no worse a model): {said}"
    )


def _after(round_number: int) -> str:
    return layout.round_stage(round_number, "evolve")


def _before(round_number: int) -> str:
    return holdout.NAME if round_number == 1 else _after(round_number - 1)


def _settings(config: Config, _: int) -> dict[str, Any]:
    return tested_settings(config) | {"calibration": of_result(config.calibration)}


STAGE = Stage(
    GUARD,
    run,
    _settings,
    lambda config, number: ["ingest", _before(number), _after(number)],
    writes=(*WRITES, "*/shard-*.parquet", f"*/{TALLIES}", "*/replies/*"),
    works_with="engines",
    wanted=lambda config: config.iteration.guard,
    ends=lambda statistics: not statistics["kept"],
)
