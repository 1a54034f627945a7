"""The Arrow schema of every table that a run writes.

A closed-answer task is one whose examples carry `options`; there an answer is the option's letter
(`A`, `B`, … `Z`, `AA`, …) for multiple choice, and the label itself for label tasks.
"""

from __future__ import annotations

import pyarrow as pa

_TEXTS = pa.list_(pa.string())
_LOGPROBS = pa.list_(pa.float32())

EXAMPLE = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("context", pa.string()),
        pa.field("options", _TEXTS),
        # Canonical (see tasks/); null in the unlabelled set, whatever the user's file holds.
        pa.field("answer", pa.string()),
        pa.field("subject", pa.string()),
        # Of a labelled example in the loss; null: 1.
        pa.field("weight", pa.float32()),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

DEMONSTRATIONS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        # Nearest first; ids of labelled examples.
        pa.field("demonstration_ids", _TEXTS, nullable=False),
        pa.field("similarities", pa.list_(pa.float32()), nullable=False),
    ]
)

# One row per (example, collaborator). The justify stage writes the same schema, one row per
# example, with the collaborator "justify".
RESPONSE = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("collaborator", pa.string(), nullable=False),
        # What follows the thought; null where there is no response, or only a thought.
        pa.field("text", pa.string()),
        # Parsed and canonical; null where the text holds no answer: never a vote.
        pa.field("answer", pa.string()),
        # The same as the text has it: what is trained on. Closed tasks: the answer itself.
        pa.field("answer_text", pa.string()),
        # "stop", "length", or why there is no response ("prompt_too_long", "engine_error", …).
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        # Of the thought and the answer together, the token that ends the text included.
        pa.field("tokens", pa.int32(), nullable=False),
        # Of the answer's own tokens, without the one that ends it; empty where the text is empty
        # (no entropy follows), null where the engine tells none.
        pa.field("token_logprobs", _LOGPROBS),
        # What the model thought before it answered; null where it did not.
        pa.field("rationale", pa.string()),
        pa.field("rationale_logprobs", _LOGPROBS),
        # Closed-answer tasks: log P of each option's continuation, in the order of the options.
        pa.field("option_logprobs", _LOGPROBS),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)

# What the collaborators agree on, under the warm model; one row for each example that was not
# justified.
SCORE = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("answer_text", pa.string(), nullable=False),
        # Of the answer, its end left out.
        pa.field("tokens", pa.int32(), nullable=False),
        # log P of the whole answer given its prompt; null where the engine could not tell.
        pa.field("logprob", pa.float64()),
    ]
)

SELECTION = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("pseudo_answer", pa.string()),
        # As its surest response has it: what is trained on. Closed tasks: the answer itself.
        pa.field("pseudo_answer_text", pa.string()),
        # Length-normalised negative log-likelihood in nats (Eq. 6); null where nothing was said.
        pa.field("entropy", pa.float64()),
        pa.field("n_valid", pa.int32(), nullable=False),
        # Share of the valid votes that the winner has; 0 where there is no valid vote.
        pa.field("agreement", pa.float64(), nullable=False),
        # Shannon entropy of the votes, in nats.
        pa.field("vote_entropy", pa.float64(), nullable=False),
        # Winner's share less the runner-up's.
        pa.field("margin", pa.float64(), nullable=False),
        # What the policy ranked by: larger is better.
        pa.field("score", pa.float64()),
        pa.field("selected", pa.bool_(), nullable=False),
        # One word: "selected", or why not.
        pa.field("reason", pa.string(), nullable=False),
        # P over the options, in their order, where the policy has one; null otherwise.
        pa.field("distribution", pa.list_(pa.float32())),
    ]
)

# What the trainer eats. A hard target is one candidate of weight 1; a soft one is a distribution
# over candidates, trained as the sum of weight x NLL(candidate).
TRAINING = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("candidates", _TEXTS, nullable=False),
        pa.field("candidate_weights", pa.list_(pa.float32()), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        # A weight for each token of each candidate, the end of the text included; null: 1 for all.
        pa.field("token_weights", pa.list_(pa.list_(pa.float32()))),
        # Whether the model's chat template rendered the prompt: it then holds its special tokens,
        # and an answer ends as that template ends a turn. Null: it is plain text.
        pa.field("chat", pa.bool_()),
    ]
)

PREDICTION = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("subject", pa.string()),
        pa.field("option_logprobs", _LOGPROBS),
    ]
)
