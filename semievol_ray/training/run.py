"""`train`: one job, on Ray or in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from semievol_ray.errors import UserError
from semievol_ray.model_files import check_adapter, check_model_exists
from semievol_ray.training import metrics
from semievol_ray.training.depot import Depot
from semievol_ray.training.job import OnProgress, OnRestart, TrainingJob, TrainingResult


def train(
    job: TrainingJob,
    *,
    on: Literal["ray", "process"] = "ray",
    depot: Depot | None = None,
    on_progress: OnProgress | None = None,
    on_restart: OnRestart | None = None,
) -> TrainingResult:
    """Fine-tune, and leave the adapter or the whole model with its tokenizer in `job.output_dir`.

    `on="ray"` runs `config.workers` Ray Train workers on the cluster that this process is
    connected to; `on="process"` runs here, as a single worker, and needs no Ray. With a `depot` the
    job's paths are those of a run directory, in an object store perhaps. `on_progress` is called
    after every optimizer step, `on_restart` with a line whenever this process begins anew for
    workers that died (Ray Train restarts groups of its own accord, without a word).

    Raises UserError for what the user must mend (a model, adapter or file of examples that is not
    there, a tokenizer without EOS, a max_length that no answer fits) and SemiEvolError where the
    loss is not a number, memory runs out or workers die more often than `config.max_failures`.
    """
    if depot is None:
        _check(job)
    tell = on_progress or _ignore
    if on == "ray":
        from semievol_ray.config import ModelConfig
        from semievol_ray.machines import Machines
        from semievol_ray.training.group_size import sized
        from semievol_ray.training.ray_train import train_on_ray

        machines = Machines.there()
        model = ModelConfig(name=job.base_model, revision=job.revision)
        job = replace(job, config=sized(job.config, model, machines, gpus=machines.gpus >= 1))
        return train_on_ray(job, depot, tell, on_restart or _ignore)
    from semievol_ray.training.loop import train_worker

    local = job if depot is None else depot.localised(job, 0)
    result = train_worker(local, metrics.Writer(local, depot, tell), depot)
    if depot is not None:
        depot.take_result(local)
    assert result is not None, "a lone process is the first worker"
    return result


def _check(job: TrainingJob) -> None:
    if job.config.is_tuned:
        raise UserError(
            "training: learning_rate and epochs are numbers here; `auto` is chosen by the labels "
            "of a whole run (`semievol run`)"
        )
    check_model_exists(job.base_model)
    if job.adapter_from is not None:
        check_adapter(str(job.adapter_from))
    for path in (*job.examples, *job.validation):
        if not path.is_file():
            raise UserError(f"{path}: no such file of training examples")
    job.scratch_dir.mkdir(parents=True, exist_ok=True)


def _ignore(_: object) -> None:
    pass
