"""Select: which pseudo-answers are trusted. The Rust core decides; this feeds it shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import SelectionConfig
from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.ray_session import shard_map
from semievol_ray.selection import mean_nll, select_shards
from semievol_ray.stages.context import Context, Outcome
from semievol_ray.store import RunDirectory, StageLedger, digest
from semievol_ray.tasks import option_letters


def run(context: Context, round_number: int) -> Outcome:
    """Write `round-<n>/select/shard-*.parquet` in the SELECTION schema."""
    folder = f"round-{round_number}/select"
    return _select_into(context, round_number, context.config.selection, folder)


@dataclass(frozen=True)
class Reselection:
    """Where another policy's selection lies, and how many rows each reason has."""

    folder: str
    reasons: dict[str, int]


def reselect(run_uri: str, overrides: tuple[str, ...], round_number: int = 1) -> Reselection:
    """Select anew from a run's responses; the run itself stays as it is.

    The tables go to `selections/<fingerprint>/` of the run. Raises UserError where an override
    is not of the section `selection`, or nothing was generated yet.
    """
    for override in overrides:
        if not override.startswith("selection."):
            raise UserError(f"--set {override}: only selection.* can change without generating")
    directory = RunDirectory(run_uri)
    before = directory.read_json("config.json")
    if before is None:
        raise UserError(f"{run_uri}: no run here")
    config = load_config(before | {"run_dir": run_uri}, overrides)
    context = Context(config, directory, StageLedger(directory))
    generated = context.ledger.get(f"round-{round_number}/generate")
    if generated is None or generated.state != "done":
        raise UserError(f"{run_uri}: round {round_number} has no responses yet")
    folder = f"selections/{digest([round_number, config.selection.model_dump()])}"
    outcome = _select_into(context, round_number, config.selection, folder)
    return Reselection(directory.full_path(folder), outcome.statistics["reasons"])


def _select_into(
    context: Context, round_number: int, selection: SelectionConfig, folder: str
) -> Outcome:
    config, sources = context.config, context.shards("unlabeled")
    if selection.policy == "balanced":
        _check_closed(context)
    classes = _classes(context)
    full_path = context.run.full_path
    tables = select_shards(
        [full_path(_stage_name(s, round_number, "generate")) for s in sources],
        None
        if config.justify.when == "never"
        else [full_path(_stage_name(s, round_number, "justify")) for s in sources],
        filesystem=context.run.filesystem,
        config=selection,
        percentile=selection.percentile_of(round_number),
        kind=context.task.kind,
        relative_tolerance=context.task.relative_tolerance,
        classes=classes,
        prior=None if classes is None else _prior(context, classes),
        labeled_entropies=_labeled_entropies(context, round_number, selection),
        map=shard_map(config.ray, len(sources)),
    )
    outputs: dict[str, int] = {}
    reasons: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    context.progress.start("select", len(sources), "shards")
    for source, table in zip(sources, tables, strict=True):
        name = source.replace("data/unlabeled", folder, 1)
        outputs[name] = context.run.write_table(name, table)
        reasons.update(table["reason"].to_pylist())
        if classes is not None:
            kept = table.filter(pc.field("selected"))
            answers.update(kept["pseudo_answer"].to_pylist())
        context.progress.advance("select", 1)
    statistics: dict[str, Any] = {"reasons": dict(reasons.most_common())}
    if classes is not None:
        statistics["selected_answers"] = dict(sorted(answers.items()))
    return Outcome(outputs, statistics)


def _check_closed(context: Context) -> None:
    if not context.task.is_closed:
        raise UserError(
            f"selection.policy: balanced needs a closed-answer task, not {context.task.kind}; "
            "use paper"
        )
    if not context.config.generation.score_options:
        raise UserError("selection.policy: balanced needs generation.score_options: true")


def _classes(context: Context) -> list[str] | None:
    """The answers that a closed task knows, in the order of the options."""
    if context.task.kind == "label":
        return list(context.task.labels or ())
    if context.task.kind == "multiple_choice":
        return option_letters(context.ingested["most_options"])
    return None


def _prior(context: Context, classes: list[str]) -> list[float]:
    """Shares of the classes among the labels; half a count each keeps unseen ones possible."""
    counts = [context.ingested["label_counts"].get(name, 0) + 0.5 for name in classes]
    return [count / sum(counts) for count in counts]


def _labeled_entropies(
    context: Context, round_number: int, selection: SelectionConfig
) -> pa.Array | None:
    if selection.percentile_over != "labeled":
        return None
    folder = f"round-{round_number}/justify/labeled"
    names = context.run.files(folder, ".parquet")
    if not names:
        raise UserError(
            "selection.percentile_over: labeled needs the labelled set's own responses, which "
            "this run did not write; set it before the stage justify"
        )
    tables = [context.run.read_table(name, ["token_logprobs"]) for name in names]
    return mean_nll(pa.concat_tables(tables)["token_logprobs"].combine_chunks())


def _stage_name(source: str, round_number: int, stage: str) -> str:
    return source.replace("data/unlabeled", f"round-{round_number}/{stage}", 1)
