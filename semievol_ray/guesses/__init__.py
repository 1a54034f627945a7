"""What a user's files look like: their columns, and the task that they are for."""

from semievol_ray.guesses.columns import guess_columns, left_out
from semievol_ray.guesses.files import Looked, look
from semievol_ray.guesses.task import Guess, check_file, guess_task

__all__ = ["Guess", "Looked", "check_file", "guess_columns", "guess_task", "left_out", "look"]
