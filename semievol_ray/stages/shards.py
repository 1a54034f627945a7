"""The shards that a stage writes: which are done, what each came to, and that none is missing.

One listing at the start finds what an earlier try committed. What each shard came to stands in
`tally-*.json` beside them, written every few seconds, so that going on with 10^5 shards opens few
files: only those committed after the last tally.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from semievol_ray.errors import DamagedError, SemiEvolError
from semievol_ray.stages.counts import COUNTED, Counts, count_responses
from semievol_ray.store import RunDirectory, layout

TALLIES = "tally-*.json"
_TALLY_EVERY_SECONDS = 5.0
_OPENED_AT_ONCE = 32


class Shards:
    """The shards of one folder, each made from the source shard of the same name."""

    def __init__(
        self,
        run: RunDirectory,
        sources: Mapping[str, int],
        folder: str,
        *,
        responses: int = 0,
        sparse: bool = False,
    ) -> None:
        """`sources`: names of the source shards with their rows.

        `responses`: of tables in the RESPONSE schema, how many rows an example has; other tables
        have one. `sparse` ones may leave examples out.
        """
        self._run, self._sources, self._folder = run, sources, folder
        self._responses, self._sparse = responses, sparse
        self._source_of = {layout.same_shard(source, folder): source for source in sources}
        self._untold: dict[str, Counts] = {}
        self._told = time.monotonic()
        self._tallies: list[str] = []
        self.done: dict[str, Counts] = {}
        self._find()

    @property
    def missing(self) -> list[tuple[str, str]]:
        """The (source, target) pairs that are not done."""
        return [(s, t) for t, s in self._source_of.items() if t not in self.done]

    @property
    def total(self) -> Counts:
        """What all that are done came to."""
        return sum(self.done.values(), Counts())

    def record(self, target: str, counts: Counts) -> None:
        """A shard is committed. Raises SemiEvolError where it has not the rows it should have."""
        wrong = self._wrong(target, counts)
        if wrong:
            raise SemiEvolError(f"{self._run.uri}/{target}: {wrong}; nothing after it is done")
        self.done[target] = self._untold[target] = counts
        if time.monotonic() - self._told > _TALLY_EVERY_SECONDS:
            self.write_tally()

    def recording(self, results: Iterable[tuple[str, Counts]]) -> Iterator[Counts]:
        """Record (target, counts) as they come, and hand the counts on."""
        try:
            for target, counts in results:
                self.record(target, counts)
                yield counts
        finally:
            self.write_tally()

    def outputs(self) -> dict[str, int]:
        """All the shards with their rows. Raises SemiEvolError where one is missing."""
        gaps = self.missing
        if gaps:
            raise SemiEvolError(
                f"{self._run.uri}/{gaps[0][1]}: is missing, and {len(gaps) - 1} more; run again"
            )
        for name in self._tallies:
            self._run.delete_file(name)
        return {target: self.done[target].rows for target in self._source_of}

    def _find(self) -> None:
        names = self._run.files(self._folder)
        there = [name for name in names if name in self._source_of]
        if not there:
            return
        self._tallies = [n for n in names if n.rpartition("/")[2].startswith("tally-")]
        told: dict[str, Counts] = {}
        for tally in self._tallies:
            told |= {k: Counts(**v) for k, v in (self._run.read_json(tally) or {}).items()}
        opened = [name for name in there if name not in told]
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
            for name, counts in zip(opened, pool.map(self._count, opened), strict=True):
                if counts is not None:
                    told[name] = self._untold[name] = counts
        for name in there:
            if name in told and not self._wrong(name, told[name]):
                self.done[name] = told[name]

    def _count(self, name: str) -> Counts | None:
        """What a shard came to, from its file; null where that cannot be read."""
        try:
            if not self._responses:
                rows = self._run.row_count(name)
                return None if rows is None else Counts(rows=rows)
            table = self._run.read_table(name, COUNTED)
        except (FileNotFoundError, DamagedError):
            return None
        source_rows = self._sources[self._source_of[name]]
        settled = 0 if self._sparse else source_rows - len(table) // self._responses
        return count_responses(table, settled=settled)

    def _wrong(self, target: str, counts: Counts) -> str | None:
        """What is wrong with the rows of a shard; null where nothing is."""
        source_rows = self._sources[self._source_of[target]]
        if self._sparse:
            right = counts.rows <= source_rows
            return None if right else f"{counts.rows} rows for {source_rows} examples"
        wanted = (source_rows - counts.settled) * max(1, self._responses)
        return None if counts.rows == wanted else f"{counts.rows} rows instead of {wanted}"

    def write_tally(self) -> None:
        """Write down what is recorded since the last tally."""
        if self._untold:
            number = len(self._tallies)
            name = f"{self._folder}/tally-{number:05d}.json"
            told = {target: counts.as_dict() for target, counts in self._untold.items()}
            self._run.write_json(name, told)
            self._tallies.append(name)
            self._untold = {}
        self._told = time.monotonic()
