"""Select: which pseudo-answers are trusted. The Rust core decides; this feeds it shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config, SelectionConfig
from semievol_ray.errors import UserError
from semievol_ray.ray_session import shard_map
from semievol_ray.selection import mean_nll, select_shards
from semievol_ray.selection.policies import POLICIES, Calibration, Policy
from semievol_ray.stages import calibrate, justify, score
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import layout
from semievol_ray.tasks import option_letters
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
)


def select_into(
    context: Context, round_number: int, selection: SelectionConfig, folder: str
) -> Outcome:
    """Select from a round's responses under any policy, into any folder."""
    config, sources = context.config, context.shards("unlabeled")
    facts = RunFacts(context, round_number)
    policy = policy_of(facts, selection, round_number)

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
        context.progress.advance("select", 1)
    statistics: dict[str, Any] = {"reasons": dict(reasons.most_common())} | policy.statistics()
    if note := policy.note():
        context.progress.finish("select", note)
    if classes is not None:
        statistics["selected_answers"] = dict(sorted(answers.items()))
    return Outcome(shards.outputs(), statistics)


def policy_of(facts: RunFacts, selection: SelectionConfig, round_number: int) -> Policy:
    """The policy of a config, with what it needs of the run. Raises UserError where that lacks."""
    chosen, task = POLICIES[selection.policy], facts.context.task
    if chosen.reads_options:
        if not task.is_closed:
            raise UserError(
                f"selection.policy: {selection.policy} needs a closed-answer task, not "
                f"{task.kind}; use paper"
            )
        if not facts.context.config.generation.score_options:
            raise UserError(
                f"selection.policy: {selection.policy} needs generation.score_options: true"
            )
    settings = {
        "percentile": selection.percentile_of(round_number),
        "percentile_over": selection.percentile_over,
        "align_prior": selection.align_prior,
        **selection.options,
    }
    try:
        return chosen.of(settings, facts)
    except ValueError as error:
        raise UserError(f"selection: {error}") from None


@dataclass(frozen=True)
class RunFacts:
    """What a run knows besides its responses, for the policies that ask (`selection.Facts`)."""

    context: Context
    round_number: int

    @property
    def classes(self) -> list[str] | None:
        """See Facts.classes."""
        context = self.context
        if context.task.kind == "label":
            return list(context.task.labels or ())
        if context.task.kind == "multiple_choice":
            return option_letters(context.ingested.most_options)
        return None

    def prior(self) -> list[float]:
        """See Facts.prior; half a count each keeps unseen classes possible."""
        known = self.context.ingested.label_counts or {}
        counts = [known.get(name, 0) + 0.5 for name in self.classes or ()]
        return [count / sum(counts) for count in counts]

    def labeled_entropies(self) -> pa.Array:
        """See Facts.labeled_entropies."""
        manifest = self.context.ledger.get(layout.round_stage(self.round_number, "justify"))
        names = [] if manifest is None else [n for n in manifest.outputs if "/labeled/" in n]
        if not names:
            raise UserError(
                "selection.percentile_over: labeled needs the labelled set's own responses, which "
                "this run did not write; set it before the stage justify"
            )
        tables = [self.context.run.read_table(name, ["token_logprobs"]) for name in names]
        return mean_nll(pa.concat_tables(tables)["token_logprobs"].combine_chunks())

    def calibration(self) -> Calibration:
        """See Facts.calibration."""
        return calibrate.read(self.context)

    def true_answers(self) -> dict[str, str]:
        """See Facts.true_answers."""
        answers: dict[str, str] = {}
        for shard in self.context.shards("withheld"):
            rows = self.context.run.read_table(shard, ["example_id", "answer"]).to_pylist()
            answers |= {row["example_id"]: row["answer"] for row in rows if row["answer"]}
        if not answers:
            raise UserError(
                "selection.policy: oracle needs the unlabelled rows' answers, and these have none"
            )
        return answers


def _is_scored(context: Context, round_number: int) -> bool:
    """Whether entropies are all of the warm model; says so where they should be and are not."""
    if not score.STAGE.wanted(context.config):
        return False
    found = context.ledger.get(layout.round_stage(round_number, score.STAGE.name))
    is_done = found is not None and found.state == "done"
    if not is_done:
        context.progress.finish(
            "select",
            "entropies are those of whichever collaborator wrote an answer: nothing was scored "
            "under the warm model, for the policy that this run was made with needs none",
        )
    return is_done
