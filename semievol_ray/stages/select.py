"""Select: which pseudo-answers are trusted. The Rust core decides; this feeds it shards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.compute as pc

from semievol_ray.config import Config, SelectionConfig
from semievol_ray.ray_session import shard_map
from semievol_ray.selection import select_shards
from semievol_ray.stages import calibrate, justify, score
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.facts import RunFacts, policy_of
from semievol_ray.stages.run_view import selected_answers
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import layout
from semievol_ray.touches import of_result

# In the fingerprint: whoever changes what a policy makes of the same responses raises it.
SELECTION_VERSION = 2


def run(context: Context, round_number: int) -> Outcome:
    """Write the shards of a round in the SELECTION schema."""
    folder = context.folder(layout.round_stage(round_number, "select"))
    return select_into(context, round_number, context.config.selection, folder)


def settings(config: Config, round_number: int) -> dict[str, Any]:
    """All that a selection depends on besides the responses."""
    selection = of_result(config.selection, without=("percentile",))
    selection["percentile"] = config.selection.percentile_of(round_number)
    if round_number > 1:
        selection["stop_below"] = config.iteration.stop_below
    return {"selection": selection, "code": {"selection": SELECTION_VERSION}}


STAGE = Stage(
    "select",
    run,
    settings,
    lambda config, number: [
        layout.round_stage(number, "justify" if justify.STAGE.wanted(config) else "generate"),
        *([layout.round_stage(number, "score")] if score.STAGE.wanted(config) else []),
        *([calibrate.STAGE.name] if calibrate.STAGE.wanted(config) else []),
    ],
    writes=("shard-*.parquet", TALLIES),
    ends=lambda statistics: statistics.get("settles", False),
)


def select_into(
    context: Context, round_number: int, selection: SelectionConfig, folder: str
) -> Outcome:
    """Select from a round's responses under any policy, into any folder."""
    config, sources = context.config, context.shards("unlabeled")
    facts = RunFacts(context, round_number)
    policy = policy_of(facts, selection)

    def shards_of(stage: str) -> list[str]:
        answered = context.folder(layout.round_stage(round_number, stage))
        return [context.run.full_path(layout.same_shard(s, answered)) for s in sources]

    tables = select_shards(
        shards_of("generate"),
        shards_of("justify") if justify.STAGE.wanted(config) else None,
        shards_of("score") if _is_scored(context, round_number) else None,
        filesystem=context.run.filesystem,
        policy=policy,
        kind=context.task.kind,
        relative_tolerance=context.task.relative_tolerance,
        map=shard_map(config.ray, len(sources)),
    )
    classes = facts.classes
    # Selected again as a whole: a threshold belongs to all shards at once.
    shards = Shards(context.run, sources, folder)
    answered = context.ledger.done(layout.round_stage(round_number, "generate"))
    reasons: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    changed = 0
    context.progress.start("select", len(sources), "shards")
    for source, table in zip(sources, tables, strict=True):
        target = layout.same_shard(source, folder)
        rows = context.run.write_table(target, table)
        # Rows that an earlier round settled have no response here, and so no selection.
        responses = answered.outputs[layout.same_shard(source, answered.folder)]
        open_rows = responses // len(config.collaborators)
        shards.record(target, Counts(rows=rows, settled=sources[source] - open_rows))
        reasons.update(table["reason"].to_pylist())
        if classes is not None:
            kept = table.filter(pc.field("selected"))
            answers.update(kept["pseudo_answer"].to_pylist())
        if round_number > 1:
            changed += _changed_rows(context, round_number, source, target)
        context.progress.advance("select", 1)
    statistics: dict[str, Any] = {"reasons": dict(reasons.most_common())} | policy.statistics()
    if note := policy.note():
        context.progress.say("select", note)
    if round_number > 1:
        share = changed / max(1, sum(sources.values()))
        settles = share < config.iteration.stop_below
        statistics |= {"changed_rows": changed, "settles": settles}
        said = "; no round follows" if settles else ""
        context.progress.say(
            "select", f"{changed} rows selected anew or with another answer ({share:.1%}){said}"
        )
    if classes is not None:
        statistics["selected_answers"] = dict(sorted(answers.items()))
    return Outcome(shards.outputs(), statistics)


def _changed_rows(context: Context, round_number: int, source: str, target: str) -> int:
    """How many rows of a shard are selected that the round before did not select as they are."""
    before = context.folder(layout.round_stage(round_number - 1, "select"))
    known = selected_answers(context.run, layout.same_shard(source, before))
    return len(selected_answers(context.run, target).items() - known.items())


def _is_scored(context: Context, round_number: int) -> bool:
    """Whether entropies are all of the warm model; says so where they should be and are not."""
    if not score.STAGE.wanted(context.config):
        return False
    is_done = context.ledger.is_done(layout.round_stage(round_number, score.STAGE.name))
    if not is_done:
        context.progress.finish(
            "select",
            "entropies are those of whichever collaborator wrote an answer: nothing was scored "
            "under the warm model, for the policy that this run was made with needs none",
        )
    return is_done
