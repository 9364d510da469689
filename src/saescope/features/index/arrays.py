"""The index's arrays: one `.npy` file each, memory-mapped, written under a temporary name until whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from saescope.errors import FeatureIndexError
from saescope.whole_files import reserve

ARRAYS = "arrays"


def array_path(folder: Path, name: str) -> Path:
    return folder / ARRAYS / f"{name}.npy"


def write_array(folder: Path, name: str, values: NDArray[Any]) -> None:
    """Write an array, replacing one of that name. FeatureIndexError where it cannot be written."""
    with new_array(folder, name, values.shape, values.dtype) as into:
        into[...] = values


@contextmanager
def new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """An array to be filled through a memory map; it has its name when the block ends without an error."""
    path = array_path(folder, name)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if 0 in shape:
            # Nothing can be mapped of an empty file.
            with temporary.open("wb") as file:
                np.save(file, np.zeros(shape, dtype))
            yield np.zeros(shape, dtype)
        else:
            mapped = _mapped(temporary, shape, np.dtype(dtype))
            yield mapped
            mapped.flush()
        temporary.replace(path)
    except OSError as error:
        raise FeatureIndexError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from None
    finally:
        temporary.unlink(missing_ok=True)


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    """A new file of that array, mapped. OSError where the disk has no room for all of it."""
    with path.open("wb") as file:
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
        reserve(file, math.prod(shape) * dtype.itemsize)
    return np.lib.format.open_memmap(path, mode="r+")


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """A memory-mapped array. FeatureIndexError, naming the file, where it is missing or damaged."""
    path = array_path(folder, name)
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        # A plain view of the same map: numpy's own class for maps makes every small slice several times dearer.
        values = mapped.view(np.ndarray)
    except ValueError:
        # An empty array cannot be mapped.
        values = _read_unmapped(path)
    except (OSError, EOFError) as error:
        raise FeatureIndexError(f"cannot read {path}: {_reason(error)}; remove the index and build it again") from None
    return values


def _read_unmapped(path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureIndexError(f"damaged {path}: {_reason(error)}; remove the index and build it again") from None
    return values


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
