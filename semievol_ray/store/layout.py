"""Where everything of a run lies: the one home of its names, all relative to the run.

    semievol-run.json                       what makes a folder a run directory
    lease/                                  who works on it
    config.json  live.json  devices.json    what it was asked, does now, and runs on
    report.html  worth-labelling.csv        what `semievol report` made of it
    manifests/<stage>.json
    <stage>/attempt-<n>/…                   a stage's files; a stage done anew is a new attempt

A shard keeps its name through all the stages (`shard-00012.parquet`): only the folder changes.
"""

from __future__ import annotations

import fnmatch
import re

MARKER = "semievol-run.json"
LEASE = "lease"
CONFIG = "config.json"
LIVE = "live.json"
DEVICES = "devices.json"
REPORT = "report.html"
WORTH_LABELLING = "worth-labelling.csv"
# What `semievol compare` keeps in the folder of its runs.
COMPARISON = "compare.json"
MANIFESTS = "manifests"
LOGS = "logs"
ISOLATION = "isolation"
# The stage that knows what a setting that was left to the labels came to.
TUNE = "tune"

# A reference to something that the run made itself, where a user's path or hub id may stand too.
_SCHEME = "run:"
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{8}")
_ATTEMPT = re.compile(r"attempt-(\d+)")


def manifest(stage: str) -> str:
    """A stage's manifest."""
    return f"{MANIFESTS}/{stage.replace('/', '.')}.json"


def attempt_folder(stage: str, attempt: int) -> str:
    """The folder of one attempt of a stage; attempts are numbered from 1."""
    return f"{stage}/attempt-{attempt}"


def attempt_number(folder: str) -> int:
    """The number in the last part of an attempt's folder; 0 where it is no such folder."""
    found = _ATTEMPT.fullmatch(folder.rpartition("/")[2])
    return int(found[1]) if found else 0


def round_stage(round_number: int, stage: str) -> str:
    """A stage's name within a round, as in `round-2/select`."""
    return f"round-{round_number}/{stage}"


def of_warmup(folder: str, number: int) -> str:
    """Where, in a stage's folder, one of several warm-ups lies, numbered from 1."""
    return folder if number == 1 else f"{folder}/warm-{number}"


def shard(number: int) -> str:
    """The name of a shard (0-based), in whatever folder."""
    return f"shard-{number:05d}.parquet"


def same_shard(name: str, folder: str) -> str:
    """The shard of that name in another folder."""
    return f"{folder}/{name.rpartition('/')[2]}"


def reference(name: str) -> str:
    """A name of the run as a reference that travels, where a path of one machine must not."""
    return _SCHEME + name


def referred(text: str) -> str | None:
    """The name of the run that a reference means; null for a path or hub id of the user's."""
    return text.removeprefix(_SCHEME) if text.startswith(_SCHEME) else None


def is_temporary(name: str) -> bool:
    """Whether a part of a name (relative to the run) is one that only unfinished writes have."""
    return any(_TEMPORARY.fullmatch(part) for part in name.split("/"))


def is_owned(name: str, folder: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file in an attempt's folder is one that its stage says it writes.

    A pattern is relative to the folder; `scratch/*` means all that is below `scratch`.
    """
    inside = name.removeprefix(f"{folder}/")
    return is_temporary(name) or any(fnmatch.fnmatchcase(inside, p) for p in patterns)
