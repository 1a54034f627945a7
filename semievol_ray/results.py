"""A run, seen from outside: its tables as pyarrow, its figures, its state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.progress.live import live_line
from semievol_ray.stages import baselines, classifiers, evaluate, ingest
from semievol_ray.stages.predictions import folder_of
from semievol_ray.stages.run_view import accepted_round, labeller
from semievol_ray.store import Manifest, RunDirectory, StageLedger, layout


class Run:
    """What a run wrote. Nothing is changed through this object."""

    def __init__(self, uri: str) -> None:
        self.directory = RunDirectory(uri)
        if not self.directory.exists(layout.MANIFESTS):
            raise UserError(f"{uri}: no run here")

    @property
    def uri(self) -> str:
        """Where the run is."""
        return self.directory.uri

    @property
    def manifests(self) -> list[Manifest]:
        """What each stage did, in the order in which they were finished."""
        return sorted(self._ledger.all(), key=lambda m: m.finished_at or "9999")

    @property
    def live(self) -> str | None:
        """What the run is doing, or was when it died, in one line; null between two stages."""
        found = self.directory.read_mapping(layout.LIVE)
        return None if found is None else live_line(found, time.time())

    def config(self, overrides: tuple[str, ...] = ()) -> Config:
        """The config that the run was last given, with overrides."""
        values = self.directory.read_mapping(layout.CONFIG)
        if values is None:
            raise UserError(f"{self.uri}: no run here")
        return load_config(values | {"run_dir": self.uri}, overrides)

    @property
    def _ledger(self) -> StageLedger:
        return StageLedger(self.directory)

    def examples(self, split: str) -> pa.Table:
        """The `labeled`, `unlabeled` or `test` examples (EXAMPLE schema)."""
        return self._table("ingest", split)

    def quarantine(self) -> pa.Table:
        """The rows that could not be used (QUARANTINE schema)."""
        return self.directory.read_table(f"{self._folder('ingest')}/{ingest.QUARANTINED}")

    def responses(self, round_number: int = 1) -> pa.Table:
        """What the collaborators answered (RESPONSE schema)."""
        return self._table(layout.round_stage(round_number, "generate"))

    def justified(self, round_number: int = 1) -> pa.Table:
        """What the warm model made of it (RESPONSE schema)."""
        return self._table(layout.round_stage(round_number, "justify"))

    def scored(self, round_number: int = 1) -> pa.Table:
        """The SCORE table of a round: agreed answers under the warm model."""
        return self._table(layout.round_stage(round_number, "score"))

    def selection(self, round_number: int = 1) -> pa.Table:
        """Which pseudo-answers were trusted, and why (SELECTION schema)."""
        return self._table(layout.round_stage(round_number, "select"))

    def predictions(self, model: str = "SemiEvol") -> pa.Table:
        """A compared model's answers to the test set (PREDICTION schema)."""
        part = folder_of(model)
        # Runs of versions before 0.12 have the baselines among the others.
        there = self.directory.files(f"{self._folder(self._evaluation)}/{part}", ".parquet")
        return self._table(self._evaluation if there else baselines.NAME, part)

    @property
    def before(self) -> str:
        """The compared model that labelled first: SFT, or the earlier run's that is continued."""
        return baselines.before_of(self.config())

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Accuracies, intervals and paired tests; null where there was no test set."""
        manifest = self._ledger.get(self._evaluation)
        if manifest is None or manifest.state != "done":
            return None
        found: dict[str, Any] | None = self.directory.read_json(
            f"{manifest.folder}/{evaluate.METRICS}"
        )
        return found

    def model_path(self, round_number: int | None = None) -> str:
        """Where a round's model is, a PEFT adapter or a whole model; 0 is the warm one.

        None: that of the last round that counts, which the guard, if there is one, let pass.
        """
        return self.directory.uri_of(self._model(round_number))

    def model_folder(self, round_number: int | None = None) -> Path:
        """The same as a local folder: itself, or this machine's copy of it."""
        return self.directory.local_folder(self._model(round_number))

    @property
    def model_stage(self) -> str:
        """The stage that trained the model which counts: the warm-up, where no evolution does."""
        iteration = self.config().iteration
        return labeller(1 + accepted_round(self._ledger, iteration.rounds, guarded=iteration.guard))

    def _model(self, round_number: int | None) -> str:
        stage = self.model_stage if round_number is None else labeller(round_number + 1)
        return f"{self._folder(stage)}/model"

    @property
    def classifiers(self) -> dict[str, str]:
        """Folders of the classifiers that learnt from what was selected, by collaborator."""
        found = self._ledger.get(layout.round_stage(self._rounds, classifiers.NAME))
        if found is None or found.state != "done":
            return {}
        folders = dict.fromkeys(name.rpartition("/")[0] for name in found.files)
        return {f.rpartition("/")[2]: self.directory.uri_of(f) for f in folders}

    @property
    def has_model(self) -> bool:
        """Whether anything was trained yet."""
        return self._ledger.is_done(labeller(1))

    @property
    def has_selection(self) -> bool:
        """Whether a round selected anything yet."""
        return self._ledger.is_done(layout.round_stage(1, "select"))

    @property
    def report(self) -> str | None:
        """Where the report lies that was last written; null where none was."""
        there = self.directory.exists(layout.REPORT)
        return self.directory.uri_of(layout.REPORT) if there else None

    @property
    def _evaluation(self) -> str:
        """The comparison of the rounds that the run was last asked for."""
        return layout.round_stage(self._rounds, "evaluate")

    @property
    def _rounds(self) -> int:
        config = self.directory.read_mapping(layout.CONFIG) or {}
        return int(config.get("iteration", {}).get("rounds", 1))

    def _folder(self, stage: str) -> str:
        manifest = self._ledger.get(stage)
        if manifest is None:
            raise UserError(f"{self.uri}: nothing in {stage} yet")
        return manifest.folder

    def _table(self, stage: str, part: str = "") -> pa.Table:
        folder = self._folder(stage) + (f"/{part}" if part else "")
        names = self.directory.files(folder, ".parquet")
        if not names:
            raise UserError(f"{self.uri}: nothing in {stage} yet")
        return pa.concat_tables([self.directory.read_table(name) for name in names])


def metric_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """The comparison as lines of text: a row for each model, a row for each pair."""
    for name, said in evaluate.as_good_as_evolved(metrics).items():
        shares = (metrics["models"][who]["accuracy"] for who in (name, "SemiEvol"))
        yield "{}: {:.1%} right, SemiEvol {:.1%}".format(name, *shares)
        yield (
            f"  {said}: where the name of an answer is all that is needed, this classifier gives "
            "it at a fraction of the cost\n"
        )
    width = max(18, *map(len, metrics["models"]))
    yield f"{'model':<{width}} {'accuracy':>8}   {'interval':>14}   {'right':>11}"
    for name, found in metrics["models"].items():
        interval = f"{100 * found['low']:.1f} – {100 * found['high']:.1f}"
        yield (
            f"{name:<{width}} {100 * found['accuracy']:>7.1f}%   {interval:>14}   "
            f"{found['correct']:>5}/{found['rows']}"
        )
    for name, found in metrics["models"].items():
        if "as_the_authors" in found:
            yield f"{name}: {100 * found['as_the_authors']:.1f}% as the authors' code counts"
    yield ""
    for pair in evaluate.pairs_to_read(metrics):
        yield (
            f"{pair['second']} against {pair['first']}: {100 * pair['difference']:+.1f} points, "
            f"{pair['only_second_right']} rows won, {pair['only_first_right']} lost, "
            f"McNemar p = {pair['mcnemar_p']:.2g}"
        )
    for found in metrics.get("pseudo_answers") or ():
        if found["selected"]:
            yield (
                f"pseudo-answers, round {found['round']}: "
                f"{100 * found['correct'] / found['rows']:.1f}% of {found['rows']} right; "
                f"{100 * found['selected_correct'] / found['selected']:.1f}% of the "
                f"{found['selected']} selected"
            )
