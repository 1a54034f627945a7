"""The tasks of the paper, by name. A preset fills what the user's `task:` section leaves open."""

from __future__ import annotations

from typing import Any

from semievol_ray.config import TaskConfig

_CHOICE = "Answer the multiple-choice question. Reply with the letter of the right option only."

# MMLU and MMLU-Pro count their options from 0 where the answer is a number; ARC from 1.
TASK_PRESETS: dict[str, dict[str, Any]] = {
    "mmlu": {"kind": "multiple_choice", "instruction": _CHOICE, "first_option_number": 0},
    "mmlu_pro": {"kind": "multiple_choice", "instruction": _CHOICE, "first_option_number": 0},
    "arc": {"kind": "multiple_choice", "instruction": _CHOICE, "first_option_number": 1},
    "usmle": {"kind": "multiple_choice", "instruction": _CHOICE},
    "fpb": {
        "kind": "multiple_choice",
        "instruction": (
            "What is the sentiment of the sentence, from an investor's point of view? "
            "Reply with the letter of the right option only."
        ),
    },
    "pubmedqa": {
        "kind": "label",
        "labels": ("yes", "no", "maybe"),
        "instruction": "Answer the research question from the abstract: yes, no or maybe.",
    },
    "convfinqa": {
        "kind": "numeric",
        "relative_tolerance": 1e-2,
        # Some questions ask for yes or no: the authors count them, and no answer to them as right.
        "word_answers": True,
        "instruction": (
            "Answer the question about the financial report. Reply with the number only."
        ),
    },
}

# What a kind of task falls back to where neither the user nor a preset says.
KIND_DEFAULTS: dict[str, dict[str, Any]] = {
    "multiple_choice": {
        "instruction": _CHOICE,
        "question_template": (
            "{% if context %}{{ context }}\n{% endif %}{{ question }}\n"
            "{% for option in options %}{{ letters[loop.index0] }}. {{ option }}\n{% endfor %}"
            "Answer:"
        ),
    },
    "label": {
        "instruction": "Which label fits the text? Reply with the label only.",
        "question_template": ("{% if context %}{{ context }}\n{% endif %}{{ question }}\nLabel:"),
    },
    "numeric": {
        "instruction": "Answer the question. Reply with the number only.",
        "question_template": ("{% if context %}{{ context }}\n{% endif %}{{ question }}\nAnswer:"),
    },
    "text": {
        "instruction": "Answer the question.",
        "question_template": ("{% if context %}{{ context }}\n{% endif %}{{ question }}\nAnswer:"),
    },
}


def kind_of(task: TaskConfig) -> str:
    """The kind that a config or its preset names; nothing where neither does."""
    return task.kind or TASK_PRESETS.get(task.preset or "", {}).get("kind", "")


def what_is_left_open(task: TaskConfig) -> dict[str, tuple[Any, str]]:
    """What stands for a setting of `task` that is null, by its dotted name, and who says so."""
    preset, kind = TASK_PRESETS.get(task.preset or "", {}), kind_of(task)
    by_kind = {name: (value, f"kind {kind}") for name, value in KIND_DEFAULTS.get(kind, {}).items()}
    named = {name: (value, f"task preset {task.preset}") for name, value in preset.items()}
    return {f"task.{name}": found for name, found in (by_kind | named).items()}
