"""Where workers that share no disk leave what the others, and a later try, need.

Beside a local run directory all of them see the same files, and nothing is copied. Beside an
object store each works in a folder of its machine: it localises what its job refers to, and what
must outlive the machine (checkpoints, the best weights, logs, the model) is uploaded to the run.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyarrow import fs

from semievol_ray.store import RunDirectory
from semievol_ray.training.job import TrainingJob


@dataclass(frozen=True)
class Depot:
    """The folder of a training in a run directory; what it holds is named relative to it."""

    run: RunDirectory
    folder: str

    @property
    def is_shared(self) -> bool:
        """Whether every worker sees the folder as a path: then there is nothing to copy."""
        return self.run.is_local

    def localised(self, job: TrainingJob, rank: int) -> TrainingJob:
        """The job with paths of this machine for all that it refers to.

        Raises UserError where this machine does not see the run.
        """
        self.run.check_visible()
        adapter = None if job.adapter_from is None else self.run.localise(str(job.adapter_from))
        job = replace(
            job,
            base_model=self.run.localise(job.base_model),
            adapter_from=None if adapter is None else Path(adapter),
        )
        if self.is_shared:
            return job
        # A folder for each worker: several may be on one machine, and none waits for another.
        own = self.run.scratch_folder(f"{self.folder}/worker-{rank}")
        return replace(
            job,
            examples=tuple(self._local(path) for path in job.examples),
            validation=tuple(self._local(path) for path in job.validation),
            output_dir=own / "model",
            scratch_dir=own / "scratch",
            log_dir=own / "logs",
        )

    def _local(self, path: Path) -> Path:
        folder, _, file = str(path).removeprefix(f"{self.run.path}/").rpartition("/")
        return self.run.local_folder(folder) / file

    def put(self, path: Path, name: str) -> None:
        """Upload a file, or a folder with all that is in it."""
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                self.put(file, f"{name}/{file.relative_to(path)}")
            return
        fs.copy_files(
            str(path),
            self.run.full_path(f"{self.folder}/{name}"),
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=self.run.filesystem,
        )

    def fetch(self, name: str, target: Path) -> bool:
        """Download a file or a folder; false, and nothing, where there is none."""
        start = f"{self.folder}/{name}"
        found = [n for n in self.run.all_files(start) if n.startswith(f"{start}/")]
        found = found or ([start] if self.run.exists(start) else [])
        for file in found:
            place = target / file[len(start) + 1 :] if file != start else target
            place.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(
                self.run.full_path(file), str(place), source_filesystem=self.run.filesystem
            )
        return bool(found)

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted."""
        return sorted(
            n[len(self.folder) + 1 :] for n in self.run.all_files(f"{self.folder}/{folder}")
        )

    def read_json(self, name: str) -> Any:
        """A JSON file, or null where there is none."""
        return self.run.read_json(f"{self.folder}/{name}")

    def write_json(self, name: str, value: Any) -> None:
        """Commit a JSON file."""
        self.run.write_json(f"{self.folder}/{name}", value)

    def remove(self, folder: str) -> None:
        """Remove a folder that a training made here."""
        self.run.delete_owned(f"{self.folder}/{folder}", (), ("*",))

    def take_result(self, job: TrainingJob) -> None:
        """The model of a finished training goes to the run, and this machine's folder away."""
        if self.is_shared:
            return
        with self.run.new_folder(f"{self.folder}/model") as new:
            shutil.copytree(job.output_dir, new, dirs_exist_ok=True)


def remote(depot: Depot | None) -> Depot | None:
    """The depot where things must be copied to and fro; null where all is shared, or alone."""
    return None if depot is None or depot.is_shared else depot
