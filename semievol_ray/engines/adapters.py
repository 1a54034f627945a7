"""LoRA adapters over one loaded model of transformers: which model answers for which of them.

On a CPU an adapter's products cost more than the model's own (SmolLM2-135M answers 2.5 times as
fast without them), so there an adapter is merged into a copy of the base, and the base and the
copy of the last adapter are kept: twice the model's memory. On a GPU memory is dearer and the
products cheap: adapters are switched on and off over one copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from semievol_ray.errors import SemiEvolError
from semievol_ray.model_files import check_adapter


class Adapters:
    """A base model, and the models that adapters, named by their folders, make of it."""

    def __init__(self, base: Any, *, merges: bool) -> None:
        self._base, self._merges = base, merges
        self._merged: tuple[str, Any] | None = None  # the last adapter, and the copy it is in
        self._switched: Any = None  # the base under all the adapters that were asked for
        self._names: dict[str, str] = {}

    @contextlib.contextmanager
    def using(self, folder: str | None) -> Iterator[Any]:
        """The model under one adapter, or the base alone.

        Raises UserError or SemiEvolError for an adapter that cannot be had.
        """
        if folder is None and self._switched is not None:
            with self._switched.disable_adapter():
                yield self._switched
        elif folder is None:
            yield self._base
        elif self._merges:
            yield self._merge(folder)
        else:
            yield self._switch_to(folder)

    def _merge(self, folder: str) -> Any:
        if self._merged is None or self._merged[0] != folder:
            self._merged = None  # its memory goes before the next copy's comes
            model = copy.deepcopy(self._base)
            self._merged = folder, _load(model, folder, "merged").merge_and_unload().eval()
        return self._merged[1]

    def _switch_to(self, folder: str) -> Any:
        if folder not in self._names:
            name = f"adapter{len(self._names)}"
            self._switched = _load(self._switched or self._base, folder, name)
            self._switched.eval()
            self._names[folder] = name
        self._switched.set_adapter(self._names[folder])
        return self._switched


def _load(model: Any, folder: str, name: str) -> Any:
    """A model under one adapter more."""
    from peft import PeftModel

    check_adapter(folder)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
            return model
        return PeftModel.from_pretrained(
            model, folder, adapter_name=name, autocast_adapter_dtype=False
        )
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise SemiEvolError(f"{folder}: adapter cannot be loaded: {message}") from error
