"""What a run knows besides its responses, for policies that ask; and the policy of its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import SelectionConfig
from semievol_ray.errors import UserError
from semievol_ray.selection import mean_nll
from semievol_ray.selection.policies import POLICIES, Calibration, Policy
from semievol_ray.stages.run_view import RunView
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import Task, option_letters

CALIBRATE = "calibrate"


def check_policy(selection: SelectionConfig, task: Task, scores_options: bool) -> None:
    """Raise UserError where a policy cannot be had of the task, or of how it is asked."""
    if not POLICIES[selection.policy].reads_options:
        return
    if not task.is_closed:
        raise UserError(
            f"selection.policy: {selection.policy} needs a closed-answer task, not {task.kind}; "
            "use paper"
        )
    if not scores_options:
        raise UserError(
            f"selection.policy: {selection.policy} needs generation.score_options: true"
        )


def check_promise(selection: SelectionConfig, rounds: int, *, continues: bool) -> None:
    """Raise UserError where a policy's promise would be of other voters than it was found on."""
    if POLICIES[selection.policy].promises and (rounds > 1 or continues):
        raise UserError(
            f"selection.policy: {selection.policy} promises of the voters that answered the "
            "held-out labels, and of no later round's, nor of what an earlier run taught: it takes "
            "iteration.rounds: 1, and no continues"
        )


def policy_of(facts: RunFacts, selection: SelectionConfig) -> Policy:
    """The policy of a config, with what it needs of the run. Raises UserError where that lacks."""
    check_policy(selection, facts.view.task, facts.view.config.generation.score_options)
    continues = facts.view.config.continues is not None
    check_promise(selection, facts.round_number, continues=continues)
    settings = {
        "percentile": selection.percentile_of(facts.round_number),
        "percentile_over": selection.percentile_over,
        "align_prior": selection.align_prior,
        **selection.options,
    }
    try:
        return POLICIES[selection.policy].of(settings, facts)
    except ValueError as error:
        raise UserError(f"selection: {error}") from None


@dataclass(frozen=True)
class RunFacts:
    """What a run knows besides its responses, for the policies that ask (`selection.Facts`)."""

    view: RunView
    round_number: int
    # Names of what the stage calibrate made; None: it is done, and its manifest says so.
    calibrated: Sequence[str] | None = None

    @property
    def classes(self) -> list[str] | None:
        """See Facts.classes."""
        view = self.view
        if view.task.kind == "label":
            return list(view.task.labels or ())
        if view.task.kind == "multiple_choice":
            return option_letters(view.ingested.most_options)
        return None

    def label_counts(self) -> list[int]:
        """See Facts.label_counts."""
        known = self.view.ingested.label_counts or {}
        return [known.get(name, 0) for name in self.classes or ()]

    def labeled_entropies(self) -> pa.Array:
        """See Facts.labeled_entropies."""
        manifest = self.view.ledger.get(layout.round_stage(self.round_number, "justify"))
        names = [] if manifest is None else [n for n in manifest.outputs if "/labeled/" in n]
        if not names:
            raise UserError(
                "selection.percentile_over: labeled needs the labelled set's own responses, which "
                "this run did not write; set it before the stage justify"
            )
        tables = [self.view.run.read_table(name, ["token_logprobs"]) for name in names]
        return mean_nll(pa.concat_tables(tables)["token_logprobs"].combine_chunks())

    def calibration(self) -> Calibration:
        """See Facts.calibration."""
        names = self.calibrated
        if names is None:
            done = self.view.ledger.get(CALIBRATE)
            if done is None or done.state != "done":
                raise UserError(
                    f"selection.policy: {self.view.config.selection.policy} needs the voters' "
                    f"answers to held-out labels (the stage {CALIBRATE}), which this run was made "
                    "without; set it in the run's config"
                )
            names = tuple(done.outputs)
        return _read_calibration(self.view.run, names)

    def true_answers(self) -> dict[str, str]:
        """See Facts.true_answers."""
        answers: dict[str, str] = {}
        for shard in self.view.shards("withheld"):
            rows = self.view.run.read_table(shard, ["example_id", "answer"])
            known = rows.filter(pc.field("answer").is_valid())
            found = known["answer"].combine_chunks()
            if not self.view.task.is_closed:  # such answers are kept as they were written
                found = self.view.task.parse(found)
            pairs = zip(known["example_id"].to_pylist(), found.to_pylist(), strict=True)
            answers |= {name: answer for name, answer in pairs if answer is not None}
        if not answers:
            raise UserError(
                "selection.policy: oracle needs the unlabelled rows' answers, and these have none"
            )
        return answers

    @property
    def tolerance(self) -> float:
        """See Facts.tolerance."""
        task = self.view.task
        return task.relative_tolerance if task.kind == "numeric" else 0.0


def _read_calibration(run: RunDirectory, names: Sequence[str]) -> Calibration:
    tables: dict[bool, list[pa.Table]] = {True: [], False: []}
    for name in sorted(names):
        tables["/labels/" in name].append(run.read_table(name))
    labels = pa.concat_tables(tables[True])
    gold = zip(labels["example_id"].to_pylist(), labels["answer"].to_pylist(), strict=True)
    return Calibration(pa.concat_tables(tables[False]), dict(gold))
