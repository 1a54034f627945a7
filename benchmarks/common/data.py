"""Where the public data sets are; the project does not contain them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Programs of a benchmark are started from here: `python -m benchmarks.…`.
ROOT = Path(__file__).parents[2]
_DEFAULT = Path(__file__).parents[3] / "shared" / "data"


def data_folder(name: str) -> Path:
    """The folder of one data set; ends the program in one line where it is absent."""
    folder = Path(os.environ.get("SEMIEVOL_DATA", _DEFAULT)) / name
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; set SEMIEVOL_DATA to the folder that holds {name}/")
    return folder
