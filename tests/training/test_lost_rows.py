"""What a training could not learn from is said, and not only counted in a file."""

from __future__ import annotations

from semievol_ray.stages.finetune import _lost


def test_what_is_lost_is_said_in_one_line() -> None:
    lost = {"dropped_rows": 3, "truncated_rows": 1200}
    assert _lost(lost, 512) == (
        "3 answers left out, too long or of no weight, 1,200 prompts cut in their middle "
        "(training.max_length: 512)"
    )
    assert _lost(lost | {"max_length": 64}, 512).endswith(
        "(training.max_length: 512; the model has 64 positions)"
    )
    assert _lost({"dropped_rows": 0, "truncated_rows": 0}, 512) == ""
