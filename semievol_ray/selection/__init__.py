"""Which pseudo-answers are trusted: kernels in Rust over Arrow arrays, policies over them.

Usable alone, on any table of responses; nothing here knows of a run, of Ray or of an engine.

    extract_answers(texts, *, kind, pattern=None, options=None, labels=None, decimal_mark=".")
        -> pa.StringArray
    written_answers(texts, *, kind, pattern=None, decimal_mark=".") -> pa.StringArray
    answers_equal(left, right, *, kind, relative_tolerance=0.0) -> pa.BooleanArray
    mean_nll(logprobs) -> pa.DoubleArray
    select(responses, justified, scored=None, *, policy, kind, relative_tolerance=0.0) -> pa.Table
    select_shards(responses, justified, scored=None, *, filesystem, …as select…, map=map)
        -> Iterator[pa.Table]

with a policy of `semievol_ray.selection.policies`, as `Paper(percentile=50)`, and the kernels that
these rest on, each with its formula in its docstring: sequence_score, token_entropy,
ambiguous_numbers, Groups, consensus, collaborator_agreement, average_options, pool_options,
alignment_weights, align_options, minhash, near_duplicates, top_by_budget, hash_ids. No stage of a
run calls token_entropy, collaborator_agreement, minhash, near_duplicates or top_by_budget: they are
there for programs of your own.

`kind` is "multiple_choice", "label", "numeric" or "text". Arrays are those of any library that
speaks Arrow's PyCapsule interface (pyarrow, polars, duckdb), or what pyarrow makes arrays of
(lists, numpy, pandas); tables likewise. Foreign buffers are checked as they come in. Errors are
ValueError with the argument and the row.
"""

from semievol_ray._native import (
    Groups,
    align_options,
    alignment_weights,
    ambiguous_numbers,
    answers_equal,
    average_options,
    collaborator_agreement,
    consensus,
    extract_answers,
    hash_ids,
    mean_nll,
    minhash,
    near_duplicates,
    num_threads,
    pool_options,
    sequence_score,
    set_num_threads,
    token_entropy,
    written_answers,
)
from semievol_ray.selection.passes import select, select_shards
from semievol_ray.selection.thresholds import top_by_budget

__all__ = [
    "Groups",
    "align_options",
    "alignment_weights",
    "ambiguous_numbers",
    "answers_equal",
    "average_options",
    "collaborator_agreement",
    "consensus",
    "extract_answers",
    "hash_ids",
    "mean_nll",
    "minhash",
    "near_duplicates",
    "num_threads",
    "pool_options",
    "select",
    "select_shards",
    "sequence_score",
    "set_num_threads",
    "token_entropy",
    "top_by_budget",
    "written_answers",
]
