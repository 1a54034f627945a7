"""Tables of responses for the tests of selection, and policies by their names."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pyarrow as pa

from semievol_ray.schema import RESPONSE
from semievol_ray.selection import select
from semievol_ray.selection.policies import POLICIES

LETTERS = ["A", "B", "C"]


def response(example_id, answer="A", logprobs=(-1.0,), options=None, tokens=None, written=None):
    return {
        "example_id": example_id,
        "collaborator": "warm-0shot",
        "text": answer,
        "answer": answer,
        "answer_text": answer if written is None else written,
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "tokens": (1 if logprobs is None else len(logprobs)) if tokens is None else tokens,
        "token_logprobs": logprobs if logprobs is None else list(logprobs),
        "option_logprobs": options,
        "seed": 0,
    }


def table(rows):
    # Other people's tables may hold nulls where ours never do.
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in RESPONSE]))


def run(rows, justified=(), *, policy="paper", percentile=50.0, kind="multiple_choice", **more):
    tolerance = more.pop("relative_tolerance", 0.0)
    return select(
        table(rows),
        table(list(justified)) if justified else None,
        policy=policy_of(policy, percentile=percentile, **more),
        kind=kind,
        relative_tolerance=tolerance,
    )


def policy_of(name, **settings):
    """A policy by its name; each takes what it knows of the settings."""
    chosen = POLICIES[name]
    known = {field.name for field in fields(chosen)}
    return chosen(**{key: value for key, value in settings.items() if key in known})


def by_id(selection):
    return {row["example_id"]: row for row in selection.to_pylist()}


def many_examples():
    """400 examples with ties, and justifications of half of them."""
    rng = np.random.default_rng(0)
    rows, justified = [], []
    for i in range(400):
        size = int(rng.integers(2, 4))
        for _ in range(3):
            # Rounded, so that ties are common.
            options = np.log(rng.dirichlet(np.ones(size))).round(0).tolist()
            answer = None if rng.random() < 0.1 else LETTERS[int(rng.integers(size))]
            rows.append(response(f"e{i:03}", answer, [-float(rng.integers(9))], options))
        if rng.random() < 0.5:
            justified.append(response(f"e{i:03}", "A", [-float(rng.integers(9))]))
    return rows, justified


def settings_of(policy):
    chosen = policy_of(policy, percentile=40.0, classes=LETTERS, prior=(0.2, 0.3, 0.5))
    return {"policy": chosen, "kind": "multiple_choice"}
