"""Every setting of a run, and its one default.

Frozen pydantic models; an unknown key is refused with the nearest known one named. A preset is a
set of overrides that lies between these defaults and what the user wrote.
"""

from semievol_ray.config.data import Columns, DataConfig, Locations, RetrievalConfig, TaskConfig
from semievol_ray.config.labelling import (
    Budget,
    CalibrationConfig,
    GenerationConfig,
    JustifyConfig,
    Replicas,
    SelectionConfig,
)
from semievol_ray.config.models import (
    CLASSIFIERS,
    ENGINES,
    Collaborator,
    ModelConfig,
    Price,
    thinking_of,
    warm_number,
)
from semievol_ray.config.run import (
    PRESETS,
    Config,
    EvaluationConfig,
    IterationConfig,
    RayConfig,
    Reference,
)
from semievol_ray.config.section import Section, Tokens, given
from semievol_ray.config.training import (
    SERVED_BY_VLLM,
    AdapterVariant,
    EvolveConfig,
    LoraConfig,
    TrainingConfig,
    TuningConfig,
    WarmupConfig,
)

__all__ = [
    "CLASSIFIERS",
    "ENGINES",
    "PRESETS",
    "SERVED_BY_VLLM",
    "AdapterVariant",
    "Budget",
    "CalibrationConfig",
    "Collaborator",
    "Columns",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "EvolveConfig",
    "GenerationConfig",
    "IterationConfig",
    "JustifyConfig",
    "Locations",
    "LoraConfig",
    "ModelConfig",
    "Price",
    "RayConfig",
    "Reference",
    "Replicas",
    "RetrievalConfig",
    "Section",
    "SelectionConfig",
    "TaskConfig",
    "Tokens",
    "TrainingConfig",
    "TuningConfig",
    "WarmupConfig",
    "given",
    "thinking_of",
    "warm_number",
]
