"""Fine-tuning on DeepSpeed ZeRO: `train` a TrainingJob, on Ray or in this process."""

from semievol_ray.training.adapters import merge
from semievol_ray.training.depot import Depot
from semievol_ray.training.failures import Diverged
from semievol_ray.training.job import Progress, TrainingJob, TrainingResult
from semievol_ray.training.run import train

__all__ = ["Depot", "Diverged", "Progress", "TrainingJob", "TrainingResult", "merge", "train"]
