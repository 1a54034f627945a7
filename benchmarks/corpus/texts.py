"""A corpus of JSON lines, of any size, in which one row in fifty says what another one said."""

from __future__ import annotations

import random
from pathlib import Path

# Rows of a file: peers give each of their workers whole files.
FILE_ROWS = 250_000
# Rows that say what another one says.
REPEATED_EVERY = 50
_SENTENCES, _WORDS = 1021, 16
_LABELS = "ABCD"


def write_corpus(folder: Path, rows: int) -> int:
    """Write files of `text` and `label` into a folder; returns how many rows are different."""
    draw = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
    sentences = [" ".join(draw.choices(words, k=_WORDS)) for _ in range(_SENTENCES)]
    folder.mkdir(parents=True)
    for start in range(0, rows, FILE_ROWS):
        with (folder / f"{start // FILE_ROWS:04d}.jsonl").open("w") as sink:
            sink.writelines(
                f'{{"text": "{_number(i)} {sentences[_number(i) % _SENTENCES]}", '
                f'"label": "{_LABELS[i % len(_LABELS)]}"}}\n'
                for i in range(start, min(start + FILE_ROWS, rows))
            )
    return rows - rows // REPEATED_EVERY


def write_labels(path: Path) -> None:
    """A few labelled rows that the corpus does not hold."""
    rows = (f'{{"text": "label {i}", "label": "{_LABELS[i % 4]}"}}\n' for i in range(40))
    path.write_text("".join(rows))


def _number(row: int) -> int:
    """What makes a row's text its own; the last of every fifty says what one before it said."""
    return row - 1 if row % REPEATED_EVERY == REPEATED_EVERY - 1 else row
