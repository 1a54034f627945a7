"""`select` written without haste: a dict per example, one loop, numpy's percentile."""

from __future__ import annotations

import math

import numpy as np


def nll(logprobs):
    return None if not logprobs else -math.fsum(logprobs) / len(logprobs) + 0.0


def consensus(rows):
    """Winner, entropy of its best vote, entropy of the first vote, shares of the answers."""
    votes = {}
    for row in rows:
        if row["answer"] is not None:
            votes.setdefault(row["answer"], []).append(nll(row["token_logprobs"]))
    if not votes:
        return None, None, None, []
    first = next(iter(votes.values()))[0]

    def best(values):
        # An NLL that is not known loses to any other, an infinite one too.
        known = [v for v in values if v is not None]
        return (0, min(known)) if known else (1, None)

    winner = min(votes, key=lambda a: (-len(votes[a]), *best(votes[a])))
    entropy = best(votes[winner])[1]
    total = sum(map(len, votes.values()))
    shares = sorted((len(v) / total for v in votes.values()), reverse=True)
    return winner, entropy, first, shares


def threshold(values, percentile):
    """numpy's percentile; between a finite value and an infinite one it is the finite one."""
    if not values:
        return math.nan
    at = (len(values) - 1) * percentile / 100
    low, high = (sorted(values)[min(int(at) + i, len(values) - 1)] for i in range(2))
    if math.isinf(high):
        return low
    return np.percentile([min(value, 1e9) for value in values], percentile)


def select(responses, justified, *, policy, percentile, labeled=None):
    """{example id: row of the SELECTION table, as a dict} for the policies paper and upstream."""
    examples = {}
    for row in responses:
        examples.setdefault(row["example_id"], []).append(row)
    decided = {row["example_id"]: row for row in justified}
    out = {}
    ranked = {}
    for name, rows in sorted(examples.items()):
        winner, best, first, shares = consensus(rows)
        row = {
            "n_valid": sum(r["answer"] is not None for r in rows),
            "agreement": shares[0] if shares else 0.0,
            "margin": shares[0] - (shares[1] if len(shares) > 1 else 0.0) if shares else 0.0,
            "vote_entropy": -math.fsum(p * math.log(p) for p in shares),
            "pseudo_answer": winner,
            "entropy": first if policy == "upstream" else best,
        }
        spoke = any((r["tokens"] or 0) > 0 for r in rows)
        unanimous = policy == "upstream" and len(shares) == 1
        if not unanimous and name in decided:
            row["pseudo_answer"] = decided[name]["answer"]
            row["entropy"] = nll(decided[name]["token_logprobs"])
            spoke = (decided[name]["tokens"] or 0) > 0
        if unanimous:
            row["reason"] = "selected"
        elif not spoke:
            row["reason"] = "no_response"
        elif policy == "upstream" and name not in decided and shares:
            row["reason"] = "unjustified"
            row["pseudo_answer"] = row["entropy"] = None
        elif row["pseudo_answer"] is None:
            row["reason"] = "unparsed"
        elif row["entropy"] is None:
            row["reason"] = "unscored"
        else:
            row["reason"] = "selected"
            ranked[name] = row["entropy"]
        out[name] = row
    values = list(ranked.values()) if labeled is None else labeled
    tau = threshold(values, percentile)
    for name, entropy in ranked.items():
        if not (entropy <= tau if policy == "paper" else entropy < tau):
            out[name]["reason"] = "above_threshold"
    return out
