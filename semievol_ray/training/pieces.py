"""The state of a training as pieces of named parameters, however ZeRO has partitioned them.

A piece is a run of the elements of a flattened parameter that one worker holds: the weights that
its optimizer steps, and what the optimizer keeps of them. The pieces of all the workers are the
whole, so what some workers wrote at one ZeRO stage, others take up at another. DeepSpeed 0.19 has
no interface to them: this file alone looks into its optimizers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from semievol_ray.errors import SemiEvolError
from semievol_ray.training.models import bitsandbytes

WEIGHT = "weight"
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter")


@dataclass(frozen=True)
class _Piece:
    """`size` elements of parameter `name` from `start` on, at `offset` in what is stepped."""

    name: str
    start: int
    size: int
    stepped: torch.Tensor
    offset: int
    state: dict[str, Any]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views of the piece's weights, and of each of the optimizer's tensors of them."""
        whole = {WEIGHT: self.stepped.detach()} | {
            key: value
            for key, value in self.state.items()
            if isinstance(value, torch.Tensor) and value.shape == self.stepped.shape
        }
        return {k: v.view(-1).narrow(0, self.offset, self.size) for k, v in whole.items()}

    def numbers(self) -> dict[str, Any]:
        """The rest of the optimizer's state: numbers, or tensors that hold one."""
        return {k: v for k, v in self.state.items()
                if not isinstance(v, torch.Tensor) or v.shape != self.stepped.shape}  # fmt: skip


def collect(engine: Any) -> dict[str, torch.Tensor]:
    """This worker's pieces, copied to the CPU, by names that `Stored` understands."""
    found: dict[str, torch.Tensor] = {}
    # At stage 0 every worker has all of it.
    if engine.zero_optimization_stage() == 0 and torch.distributed.get_rank() > 0:
        return found
    for pieces in _groups(engine, changed=False):
        for piece in pieces:
            for key, tensor in piece.tensors().items():
                found[f"{piece.name}|{key}|{piece.start}"] = tensor.to("cpu", copy=True)
            for key, number in piece.numbers().items():
                found[f"{piece.name}|{key}|"] = torch.as_tensor(number).to("cpu", copy=True)
    return found


def restore(engine: Any, stored: Stored) -> None:
    """Put a whole state into a fresh engine. Every worker must call it."""
    for pieces in _groups(engine, changed=True):
        for piece in pieces:
            for key, tensor in piece.tensors().items():
                tensor.copy_(stored.read(piece.name, key, piece.start, piece.size))
            for key, old in piece.numbers().items():
                number = stored.number(piece.name, key)
                piece.state[key] = (
                    number.to(old.device, old.dtype, copy=True)
                    if isinstance(old, torch.Tensor)
                    else type(old)(number.item())
                )
    if engine.zero_optimization_stage() < 3:
        # The weights that answer, of which a worker has all and steps a part.
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                whole = stored.read(name, WEIGHT, 0, parameter.numel())
                parameter.data.copy_(whole.view_as(parameter))


def loss_scale(engine: Any) -> dict[str, Any]:
    """How the loss is scaled in fp16, as numbers; empty in other precisions."""
    if not engine.fp16_enabled():
        return {}
    scaler = _scaler(engine.optimizer)
    return {key: getattr(scaler, key) for key in _SCALE if hasattr(scaler, key)}


def set_loss_scale(engine: Any, scale: dict[str, Any]) -> None:
    """Go on with a scale that `loss_scale` told."""
    for key, value in scale.items():
        setattr(_scaler(engine.optimizer), key, value)


def _scaler(optimizer: Any) -> Any:
    found = getattr(optimizer, "loss_scale_config", None)
    return getattr(optimizer, "loss_scaler", None) if found is None else found


class Stored:
    """The pieces in the files of a checkpoint. Files stay open while the context lasts."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._paths = sorted(files)
        self._open = ExitStack()
        self._pieces: dict[tuple[str, str], list[tuple[int, Any, str]]] = defaultdict(list)
        self._numbers: dict[tuple[str, str], tuple[Any, str]] = {}

    def __enter__(self) -> Stored:
        for path in self._paths:
            file = self._open.enter_context(safe_open(path, framework="pt"))
            for entry in file.keys():  # noqa: SIM118 - it is no dictionary
                name, key, start = entry.rsplit("|", 2)
                if start:
                    self._pieces[name, key].append((int(start), file, entry))
                else:
                    self._numbers[name, key] = (file, entry)
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, name: str, key: str, start: int, size: int) -> torch.Tensor:
        """Elements `start:start + size` of one tensor of a parameter's state."""
        pieces = self._pieces[name, key]
        parts, at = [], start
        while at < start + size:
            number = bisect_right(pieces, at, key=lambda piece: piece[0]) - 1
            found = self._part(pieces[number], at, start + size) if number >= 0 else torch.empty(0)
            if not len(found):
                raise SemiEvolError(f"the checkpoint lacks {name} ({key}) from element {at} on")
            parts.append(found)
            at += len(found)
        return torch.cat(parts) if parts else torch.empty(0)

    @staticmethod
    def _part(piece: tuple[int, Any, str], start: int, end: int) -> torch.Tensor:
        """Of elements `start:end` of a parameter those that a piece has from `start` on."""
        first, file, entry = piece
        values: torch.Tensor = file.get_slice(entry)[start - first : end - first]
        return values

    def number(self, name: str, key: str) -> torch.Tensor:
        """What the optimizer keeps of a parameter as one number."""
        if (name, key) not in self._numbers:
            raise SemiEvolError(f"the checkpoint lacks {name} ({key})")
        file, entry = self._numbers[name, key]
        tensor: torch.Tensor = file.get_tensor(entry)
        return tensor


class _InEightBits(dict[str, Any]):
    """An optimizer's state whose tensors bitsandbytes holds in blocks of 256, in float32 here."""

    _BLOCK = 256

    def __init__(self, held: dict[str, Any]) -> None:
        self._held = held
        self._tensors = [n for n in "12" if f"qmap{n}" in held]
        parts = {f"{part}{n}" for n in self._tensors for part in ("state", "qmap", "absmax")}
        super().__init__({key: value for key, value in held.items() if key not in parts})
        for n in self._tensors:
            code, largest = held[f"qmap{n}"], held[f"absmax{n}"]
            self[f"state{n}"] = bitsandbytes().functional.dequantize_blockwise(
                held[f"state{n}"], absmax=largest, code=code, blocksize=self._BLOCK
            )

    def write_back(self) -> None:
        """Quantize it again: what was not changed comes back within 8 bits."""
        for n in self._tensors:
            quantized, state = bitsandbytes().functional.quantize_blockwise(
                self.pop(f"state{n}"), code=self._held[f"qmap{n}"], blocksize=self._BLOCK
            )
            self._held[f"state{n}"].copy_(quantized)
            self._held[f"absmax{n}"].copy_(state.absmax)
        self._held |= self


def _state(optimizer: Any, stepped: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = optimizer.state[stepped]
    return _InEightBits(found) if "qmap1" in found else found


def _groups(engine: Any, *, changed: bool) -> Iterator[list[_Piece]]:
    """This worker's pieces, as many at a time as its memory has to hold together.

    `changed`: they are written to while they are held, and ZeRO-3's own copies follow them.
    """
    for pieces in _held_groups(engine, changed):
        yield pieces
        states = {id(piece.state): piece.state for piece in pieces}
        for state in states.values():
            if changed and isinstance(state, _InEightBits):
                state.write_back()


def _held_groups(engine: Any, changed: bool) -> Iterator[list[_Piece]]:
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        yield from _partitioned(engine, optimizer, changed)
        return
    if changed:
        inner = getattr(optimizer, "optimizer", optimizer)
        _take_empty_step([p for g in inner.param_groups for p in g["params"]], inner.step)
    if stage == 0:
        yield _whole(engine, optimizer)
    else:
        yield _fragments(engine, optimizer)


def _names(engine: Any) -> dict[int, str]:
    return {id(p): name for name, p in engine.module.named_parameters()}


def _whole(engine: Any, optimizer: Any) -> list[_Piece]:
    names, inner = _names(engine), getattr(optimizer, "optimizer", optimizer)
    groups = [group["params"] for group in inner.param_groups]
    pairs = zip(getattr(optimizer, "fp16_groups", groups), groups, strict=True)
    return [
        _Piece(names[id(p)], 0, p.numel(), stepped, 0, _state(inner, stepped))
        for parameters, stepped_ones in pairs
        for p, stepped in zip(parameters, stepped_ones, strict=True)
    ]


def _take_empty_step(stepped: list[torch.Tensor], step: Callable[[], object]) -> None:
    """Let a fresh optimizer make its state. Its rate is 0 until the loop sets one."""
    # Off-loaded partitions have gradients, and keep their memory.
    bare = [p for p in stepped if p.grad is None]
    for p in bare:
        p.grad = torch.zeros_like(p)
    step()
    for p in bare:
        p.grad = None


def _fragments(engine: Any, optimizer: Any) -> list[_Piece]:
    names, found = _names(engine), []
    # Of DeepSpeed's two optimizers of these stages, the names that each has for the same.
    groups = getattr(optimizer, "bit16_groups", None) or optimizer.bf16_groups
    stepped_ones = (
        getattr(optimizer, "single_partition_of_fp32_groups", None)
        or optimizer.fp32_groups_flat_partition
    )
    for parameters, stepped in zip(groups, stepped_ones, strict=True):
        state = _state(optimizer.optimizer, stepped)
        for p in parameters:
            if (mapping := p._hp_mapping) is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                piece = _Piece(
                    names[id(p)], here.start, here.numel, stepped, there.start, state
                )  # fmt: skip
                found.append(piece)
    return found


def _partitioned(engine: Any, optimizer: Any, changed: bool) -> Iterator[list[_Piece]]:
    names, rank = _names(engine), torch.distributed.get_rank()
    for number, parameters in enumerate(optimizer.fp16_groups):
        is_swapped = optimizer._swappable_optimizer_subgroup(number)
        if is_swapped:
            optimizer._optimizer_states_and_gradient_swap_in(number)
        stepped = optimizer.fp32_partitioned_groups_flat[number]
        if changed:
            _take_empty_step([stepped], partial(optimizer._optimizer_step, number))
        pieces, state = [], _state(optimizer.optimizer, stepped)
        for p in parameters:
            _, offset, size = optimizer.grad_position[optimizer.get_param_id(p)]
            start = rank * size
            # The last partitions are filled up, or all filling.
            size = max(0, min(size, p.ds_numel - start))
            pieces.append(_Piece(names[id(p)], start, size, stepped, offset, state))
        yield pieces
        if changed:
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if is_swapped and changed:
            optimizer._optimizer_states_and_gradient_swap_out(number)
        elif is_swapped:
            optimizer._release_swap_buffers(number)
    if changed and optimizer.persistent_parameters:
        kept = optimizer.persistent_parameters
        kept[0].partition(kept)
        kept[0].all_gather(kept)
