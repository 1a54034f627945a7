"""The user's files: found, read row by row, and what a cell of them says."""

from semievol_ray.sources.files import SourceFile, find_files, refuse_overlap
from semievol_ray.sources.parts import FilePart, cut
from semievol_ray.sources.reading import read_part, read_rows
from semievol_ray.sources.rows import BadRow, Row
from semievol_ray.sources.values import (
    MISSING,
    Options,
    are_lists_of_texts,
    cell_options,
    cell_text,
    find_cell,
)

__all__ = [
    "MISSING",
    "BadRow",
    "FilePart",
    "Options",
    "Row",
    "SourceFile",
    "are_lists_of_texts",
    "cell_options",
    "cell_text",
    "cut",
    "find_cell",
    "find_files",
    "read_part",
    "read_rows",
    "refuse_overlap",
]
