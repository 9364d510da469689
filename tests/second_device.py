"""A second device that is not there, so that code which mixes devices fails on a machine without a GPU.

Its tensors say that they are on `mps`, and compute on the CPU. As on an Apple GPU, an operation on tensors of two devices is an
error (numbers and indices from the CPU are not), numpy takes none of them, and there is neither float64 nor what torch has
not implemented there. What it cannot show: speed, waiting, the accelerator's rounding, and kernels of CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

# `with torch.device(…)` knows the functions that make tensors by identity, and asks for them once: before they are replaced.
import torch.utils._device as device_context
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import saescope.kernels.autograd  # noqa: F401  its functions are looked for among all

SECOND = torch.device("mps", 0)
MAKERS = (
    "zeros", "ones", "empty", "full", "tensor", "as_tensor", "asarray", "arange", "linspace", "eye", "rand", "randn",
    "randint", "randperm", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
    "sparse_csr_tensor", "sparse_coo_tensor", "tril_indices", "triu_indices",
)  # fmt: skip
MAKERS_BY_EXAMPLE = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
# What takes tensors of both.
MIXING = {"copy_", "_has_compatible_shallow_copy_type"}
NOT_IMPLEMENTED = {"segment_reduce", "sparse_csr_tensor", "sampled_addmm", "embedding_bag"}

_plainly = torch._C.DisableTorchFunctionSubclass


class There(Tensor):
    """A tensor of the second device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        with _plainly(), torch.no_grad():
            copied = _moved_there(self.detach().clone())
        copied.requires_grad_(self.requires_grad)
        if hasattr(self, "_is_param"):
            copied._is_param = True
        memo[id(self)] = copied
        return copied


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Inside, torch has the second device."""
    device_context._device_constructors()
    with pytest.MonkeyPatch.context() as patch:
        for name in MAKERS:
            patch.setattr(torch, name, _placing(name, getattr(torch, name)))
        for name in MAKERS_BY_EXAMPLE:
            patch.setattr(Tensor, name, _placing(name, getattr(torch._C.TensorBase, name)))
        patch.setattr(Tensor, "to", _to)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(torch.mps, "synchronize", lambda: None)
        for kind in torch.autograd.Function.__subclasses__():
            if kind.__module__.startswith("saescope"):
                patch.setattr(kind, "apply", _applying(kind.apply))
                patch.setattr(kind, "forward", staticmethod(_noting(kind.forward)))
                patch.setattr(kind, "backward", staticmethod(_going_back(kind.backward)))
        yield SECOND


def _is_there(device: Any) -> bool:
    return torch.device(device).type == SECOND.type


def _moved_there(value: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, There):
        return value
    if value.dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    with _plainly():
        if value.is_leaf and value.requires_grad:
            return value.detach().as_subclass(There).requires_grad_()
        return value.as_subclass(There)


def _moved_here(value: Any) -> Any:
    with _plainly():
        return value.as_subclass(Tensor) if isinstance(value, There) else value


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.__name__
    if name == "__get__":
        asked = func.__self__.__name__
        if asked == "device":
            return SECOND if isinstance(args[0], There) else torch.device("cpu")
        if asked in ("is_cpu", "is_mps"):
            return isinstance(args[0], There) == (asked == "is_mps")
    if name == "cpu":
        return _moved_here(args[0]).clone()
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert mps:0 device type tensor to numpy")
    if name == "_has_compatible_shallow_copy_type":
        return isinstance(args[0], There) == isinstance(args[1], There)
    _refuse_a_mixture(name, args, kwargs)
    if name in NOT_IMPLEMENTED:
        raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device")
    with _plainly():
        result = func(*args, **kwargs)
    if name == "copy_":
        return args[0]
    return result if name in ("__set__", "backward") else tree_map(_moved_there, result)


def _refuse_a_mixture(name: str, args: Any, kwargs: Any) -> None:
    given: list[Tensor] = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name in ("__getitem__", "__setitem__", "index_put", "index_put_"):
        # Indices may come from the CPU, and so may what is put where no index is a tensor.
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        put = [value for value in args[2:3] if isinstance(value, Tensor)] if indices else []
        given = [args[0], *put, *(index for index in indices if isinstance(index, There))]
    elsewhere = {isinstance(leaf, There) for leaf in given if isinstance(leaf, There) or leaf.dim()}
    if name not in MIXING and len(elsewhere) > 1:
        shapes = [f"{'mps' if isinstance(leaf, There) else 'cpu'} {list(leaf.shape)}" for leaf in given]
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, got {', '.join(shapes)}")


def _placing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes a tensor, of which `device` may be the second."""

    def make(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.pop("device", None)
        there = isinstance(args[0], There) if device is None and args else device is not None and _is_there(device)
        if device is not None:
            kwargs["device"] = "cpu" if there else device
        generator = kwargs.get("generator")
        if generator is not None and generator.there != there:
            raise RuntimeError(f"Expected a {'mps' if there else 'cpu'} device type for generator")
        if there and name in NOT_IMPLEMENTED:
            raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device")
        with _plainly():
            made = original(*tree_map(_moved_here, args), **kwargs)
        return _moved_there(made) if there else made

    return make


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for given in args:
        if isinstance(given, Tensor):
            device, dtype = given.device, given.dtype
        elif isinstance(given, str | torch.device):
            device = given
        elif isinstance(given, torch.dtype):
            dtype = given
    there = isinstance(self, There) if device is None else _is_there(device)
    changes = isinstance(self, There) != there
    with _plainly():
        if device is not None and not there and torch.device(device).type != "cpu":
            return torch._C.TensorBase.to(self, device=device, dtype=dtype or self.dtype)
        copy = changes or bool(kwargs.get("copy", False))
        made = torch._C.TensorBase.to(self, dtype=dtype or self.dtype, copy=copy)
    if made is self:
        return self
    return _moved_there(made) if there else _moved_here(made)


class _Generator(torch.Generator):
    there = False

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        made.there = _is_there(device)
        return made


# torch calls a Function's forward and backward with what it holds itself, which are plain tensors.
def _applying(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        made = original(*args)
        return tree_map(_moved_there, made) if any(isinstance(value, There) for value in args) else made

    return apply


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.there = any(isinstance(value, There) for value in args)
        return original(ctx, *args)

    return forward


def _going_back(original: Callable[..., Any]) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        # Within the plain call of `Tensor.backward`.
        with torch._C._EnableTorchFunction():
            return original(ctx, *(tree_map(_moved_there, grads) if ctx.there else grads))

    return backward
