"""Select: which pseudo-answers are trusted. The Rust core decides; this feeds it shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
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
from semievol_ray.store import RunDirectory, layout
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

    # Selected again as a whole: a threshold belongs to all shards at once.
    shards = Shards(context.run, sources, folder)
    classes = facts.classes
    earlier = layout.round_stage(round_number - 1, "select")
    write = _ShardWriter(
        run=context.run,
        targets=tuple(layout.same_shard(source, folder) for source in sources),
        before=context.folder(earlier) if round_number > 1 else None,
        is_closed=classes is not None,
    )
    written = select_shards(
        shards_of("generate"),
        shards_of("justify") if justify.STAGE.wanted(config) else None,
        shards_of("score") if _is_scored(context, round_number) else None,
        filesystem=context.run.filesystem,
        policy=policy,
        kind=context.task.kind,
        relative_tolerance=context.task.relative_tolerance,
        map=shard_map(config.ray, len(sources)),
        then=write,
    )
    answered = context.ledger.done(layout.round_stage(round_number, "generate"))
    reasons: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    changed = 0
    context.progress.start("select", len(sources), "shards")
    for source, target, made in zip(sources, write.targets, written, strict=True):
        # Rows that an earlier round settled have no response here, and so no selection.
        responses = answered.outputs[layout.same_shard(source, answered.folder)]
        open_rows = responses // len(config.collaborators)
        shards.record(target, Counts(rows=made.rows, settled=sources[source] - open_rows))
        reasons.update(made.reasons)
        answers.update(made.answers)
        changed += made.changed
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


@dataclass(frozen=True)
class _Written:
    """What a shard of selections came to."""

    rows: int
    reasons: Counter[str]
    # Of what is selected: its answers, and the rows that the round before did not select so.
    answers: Counter[str]
    changed: int


@dataclass(frozen=True)
class _ShardWriter:
    """Writes a shard of selections where it was decided. Picklable."""

    run: RunDirectory
    targets: tuple[str, ...]
    # The folder of the selections of the round before.
    before: str | None
    is_closed: bool

    def __call__(self, number: int, table: pa.Table) -> _Written:
        target = self.targets[number]
        rows = self.run.write_table(target, table)
        kept = table.filter(pc.field("selected"))
        answers = Counter(kept["pseudo_answer"].to_pylist() if self.is_closed else ())
        changed = 0 if self.before is None else changed_rows(self.run, self.before, target)
        return _Written(rows, Counter(table["reason"].to_pylist()), answers, changed)


def changed_rows(run: RunDirectory, before: str, target: str) -> int:
    """How many rows of a shard are selected that the folder `before` did not select as they are."""
    known = selected_answers(run, layout.same_shard(target, before))
    return len(selected_answers(run, target).items() - known.items())


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
