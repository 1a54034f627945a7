"""A run's model handed on, with a card of the model and one of its data: to a folder or the hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.results import Run, metric_lines
from semievol_ray.store import Manifest

CARD, DATA_CARD = "README.md", "DATA_CARD.md"
_ADAPTER = "adapter_config.json"


def push(run: Run, target: str, *, base: str | None = None, public: bool = False) -> str:
    """Write a run's model and its cards to a new folder, or to a repository of the hub.

    A target is a folder where it begins with `.`, `/` or `~`, else `owner/name` on the hub. `base`
    is what others know the base model by, where this run had it in a folder. A repository that is
    made is private unless it is `public`. Returns where it is. Raises UserError for a target that
    cannot be written to, or a run without a model.
    """
    if "/" not in target and not target.startswith((".", "~")):
        raise UserError(f"--to {target}: say ./{target} for a folder, owner/{target} for the hub")
    if not run.has_model:
        raise UserError(f"{run.uri}: nothing was trained yet")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(run.model_folder(), folder)
        _name_base(folder, run, base)
        (folder / DATA_CARD).write_text(data_card(run), encoding="utf-8")
        (folder / CARD).write_text(model_card(run, base), encoding="utf-8")
        if target.startswith((".", "/", "~")):
            return _to_folder(folder, Path(target).expanduser())
        return _to_hub(folder, target, public)


def model_card(run: Run, base: str | None = None) -> str:
    """The model's card: what it is, how it was trained, what it was measured to be."""
    known = _known_base(run, base)
    config = run.config()
    lora = config.training_for(_kind(run)).method == "lora"
    header = [
        *([f"base_model: {known}"] if known else []),
        *(["library_name: peft"] if lora else ["library_name: transformers"]),
        "tags: [semi-supervised, semievol]",
    ]
    lines = ["---", *header, "---", "", f"# {_named(run)}", ""]
    kind = "An adapter of" if lora else "All weights of"
    taught = "on labels alone: no evolution counts yet, or none passed the guard"
    if _kind(run) == "evolve":
        policy = config.selection.policy
        taught = f"on labels and on pseudo-answers that the policy `{policy}` trusted"
    lines += [
        f"{kind} {known or Path(config.model.name).name}, trained by semievol_ray (SemiEvol, arXiv "
        f"2410.14745) for a {config.task.kind or config.task.preset} task {taught}; see "
        f"{DATA_CARD}.",
        "",
    ]
    if run.metrics is not None:
        measured = "\n".join(metric_lines(run.metrics)).strip()
        lines += ["## Measured on the test set", "", "```", measured, "```", ""]
    lines += ["## How it was trained", "", *_rows(_trained_on(run)), ""]
    return "\n".join(lines)


def data_card(run: Run) -> str:
    """What the model was trained on, in figures: no row of the data is in it."""
    manifests = {m.stage: m for m in run.manifests if m.state == "done"}
    read = manifests["ingest"].statistics
    facts = {f"{split} rows": f"{rows:,}" for split, rows in read["rows"].items()}
    facts["rows that could not be used"] = f"{read['bad_rows']:,}"
    facts["rows left out for being in the test set"] = (
        f"{sum(read['contaminated_rows'].values()):,}"
    )
    lines = ["# The data", "", *_rows(facts), ""]
    if read.get("label_counts"):
        counts = {name: f"{count:,}" for name, count in read["label_counts"].items()}
        lines += ["## Labels by class", "", *_rows(counts), ""]
    for name, manifest in manifests.items():
        if name.endswith("/select"):
            reasons = {why: f"{n:,}" for why, n in manifest.statistics["reasons"].items()}
            lines += [f"## Pseudo-answers, {name.partition('/')[0]}", "", *_rows(reasons), ""]
    lines += ["The texts are not part of this repository.", ""]
    return "\n".join(lines)


def _trained_on(run: Run) -> dict[str, str]:
    config = run.config().training_for(_kind(run))
    manifests = [m for m in run.manifests if m.stage == run.model_stage and m.state == "done"]
    last: Manifest | None = manifests[-1] if manifests else None
    found = {
        "method": config.method,
        "learning rate": f"{config.learning_rate}, {config.schedule}",
        "epochs": f"{config.epochs}",
        "examples a step": str(config.global_batch_size),
        "precision": config.precision,
        "seed": str(run.config().seed),
    }
    if last is not None:
        # What was left to the labels is known by now; a run of an earlier version left nothing.
        rate = last.statistics.get("learning_rate", config.learning_rate)
        found["learning rate"] = f"{rate:g}, {config.schedule}"
        found["epochs"] = f"{last.statistics.get('epochs', config.epochs):.3g}"
        found["examples"] = f"{last.statistics['examples']:,}"
        found["semievol_ray"] = last.versions.get("semievol-ray", "unknown")
    return found


def _rows(facts: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in facts.items())]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _kind(run: Run) -> Literal["warmup", "evolve"]:
    """Which of a run's trainings the model that counts is of."""
    return "warmup" if run.model_stage == "warmup" else "evolve"


def _named(run: Run) -> str:
    return run.uri.partition("?")[0].rstrip("/").rpartition("/")[2]


def _known_base(run: Run, base: str | None) -> str | None:
    """What others know the base by: a hub id, and never a path of this machine."""
    name = base or run.config().model.name
    return None if name.startswith((".", "/", "~")) or Path(name).exists() else name


def _name_base(folder: Path, run: Run, base: str | None) -> None:
    """Let an adapter name the base that others have; a path of this machine means nothing there."""
    path = folder / _ADAPTER
    if not path.is_file():
        return
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known = _known_base(run, base)
    if known is None:
        raise UserError(
            f"{run.uri}: its adapter is of a base in a folder ({run.config().model.name}), which "
            "nobody else has: name the hub's with --base, or write a whole model with `semievol "
            "merge`"
        )
    settings["base_model_name_or_path"] = known
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _to_folder(source: Path, target: Path) -> str:
    try:
        shutil.copytree(source, target)
    except FileExistsError:
        raise UserError(f"{target}: is there already; name a new folder") from None
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
    return str(target)


def _to_hub(source: Path, target: str, public: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(target, private=not public, exist_ok=True)
        found = api.upload_folder(
            repo_id=target, folder_path=source, commit_message="A model of semievol_ray"
        )
    except (HFValidationError, LocalTokenNotFoundError) as error:
        raise UserError(f"push: {target}: {' '.join(str(error).split())}") from None
    except (HfHubHTTPError, OSError) as error:
        raise SemiEvolError(f"push: {target}: {' '.join(str(error).split())[:300]}") from None
    return str(found.repo_url)
