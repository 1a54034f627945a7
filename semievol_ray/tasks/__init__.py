"""What a question, an answer and a correct answer are."""

from semievol_ray.tasks.answers import canonical_answer
from semievol_ray.tasks.authors import convfinqa_correct
from semievol_ray.tasks.forms import AnswerEvidence, AnswerForm, by_own_mark, option_letters
from semievol_ray.tasks.presets import TASK_PRESETS
from semievol_ray.tasks.prompts import BETWEEN_TURNS, PROMPTS_VERSION, PromptRenderer
from semievol_ray.tasks.task import Task

__all__ = [
    "BETWEEN_TURNS",
    "PROMPTS_VERSION",
    "TASK_PRESETS",
    "AnswerEvidence",
    "AnswerForm",
    "PromptRenderer",
    "Task",
    "by_own_mark",
    "canonical_answer",
    "convfinqa_correct",
    "option_letters",
]
