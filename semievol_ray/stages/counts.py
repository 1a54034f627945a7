"""What shards of responses came to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.engines import CUT_OFF, FAILED
from semievol_ray.progress import Progress

# More responses than this share were ended by their limit: the user should know.
_LARGEST_SHARE_CUT_OFF = 0.01
# The same of replies in which no answer is found.
_LARGEST_SHARE_UNPARSED = 0.1

COUNTED = ["collaborator", "finish_reason", "tokens", "prompt_tokens", "answer"]


@dataclass(frozen=True)
class Counts:
    """What a shard, or many, came to; of other tables than responses only `rows` is used."""

    rows: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    failed: int = 0
    unparsed: int = 0
    dropped_demonstrations: int = 0
    # Responses that their limit ended.
    cut_off: int = 0
    # Numbers that can be read in two ways; counted as a shard is answered, and not from its file.
    ambiguous: int = 0
    # Examples that an earlier round has settled: they have no rows here.
    settled: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, others = self.as_dict().values(), other.as_dict().values()
        return Counts(*(a + b for a, b in zip(mine, others, strict=True)))

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def count_responses(
    table: pa.Table, dropped_demonstrations: int = 0, settled: int = 0, ambiguous: int = 0
) -> Counts:
    """The counts of a RESPONSE table, or of one with its columns COUNTED alone."""
    failed = pc.sum(pc.is_in(table["finish_reason"], pa.array(FAILED))).as_py() or 0
    return Counts(
        rows=len(table),
        tokens=pc.sum(table["tokens"]).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py() or 0,
        failed=failed,
        unparsed=table["answer"].null_count - failed,
        dropped_demonstrations=dropped_demonstrations,
        cut_off=pc.sum(pc.equal(table["finish_reason"], CUT_OFF)).as_py() or 0,
        ambiguous=ambiguous,
        settled=settled,
    )


def of_collaborators(table: pa.Table, names: Collection[str]) -> pa.Table:
    """The rows of some collaborators."""
    return table.filter(pc.is_in(table["collaborator"], pa.array(list(names), pa.string())))


def tell_cut_off(progress: Progress, stage: str, counts: Counts, setting: str) -> None:
    """Warn where many responses of a stage were ended by their limit."""
    if counts.cut_off > _LARGEST_SHARE_CUT_OFF * counts.rows:
        progress.finish(
            stage,
            f"warning: {counts.cut_off / counts.rows:.1%} of the responses were cut off by their "
            f"limit, and hold no open answer; raise {setting}",
        )


def tell_dropped(progress: Progress, stage: str, counts: Counts) -> None:
    """Warn where demonstrations were left out for want of room: a voter was shown fewer."""
    if counts.dropped_demonstrations:
        progress.finish(
            stage,
            f"warning: {counts.dropped_demonstrations:,} demonstrations found no room in the "
            "context window and were left out; show fewer, or raise model.max_model_len",
        )


def may_be_lost(counts: Counts, voters: int) -> bool:
    """Whether there is something to tell of one of these voters, by the counts of all of them."""
    return counts.failed > 0 or counts.unparsed * voters > _LARGEST_SHARE_UNPARSED * counts.rows


def tell_lost(progress: Progress, stage: str, counts: Counts, voter: str | None = None) -> None:
    """Warn where requests of a stage, or of a voter in it, failed or many replies are unread."""
    found = []
    if counts.failed:
        found.append(f"{counts.failed:,} of {counts.rows:,} requests stayed without an answer")
    if counts.unparsed > _LARGEST_SHARE_UNPARSED * counts.rows:
        share = counts.unparsed / counts.rows
        found.append(f"{share:.1%} of the replies hold no answer that can be read")
    if found:
        who = "" if voter is None else f"{voter}: "
        progress.finish(stage, f"warning: {who}{', and '.join(found)}")
