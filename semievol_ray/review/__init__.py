"""Rows of a run for people: looked at, handed on to be reviewed, and taken back as labels."""

from semievol_ray.review.handing_on import FORMATS, export_rows, import_reviewed
from semievol_ray.review.rows import Row, Vote, rows_of, rows_with_ids
from semievol_ray.review.where import Condition

__all__ = [
    "FORMATS",
    "Condition",
    "Row",
    "Vote",
    "export_rows",
    "import_reviewed",
    "rows_of",
    "rows_with_ids",
]
