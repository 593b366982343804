"""Keras's dtype policies, and the half-precision types, which results can have and nothing is computed in.

A layer of a float16 or bfloat16 policy, mixed or not, computes in float32. What it returns is converted at the very
end, after a model's last layer: a `plan.Value` says what callers see it in. bfloat16 is a type of the package
`ml_dtypes`, which is imported when the first such result is asked for; without it results are float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastrnn.errors import UnsupportedLayerError

HALVES = ("float16", "bfloat16")
"""Names of the half-precision types."""

POLICIES = ("float32", "float64", *HALVES, "mixed_float16", "mixed_bfloat16")
"""Names of the policies."""

PRECISIONS = ("float32", "bfloat16", "int8")
"""Names of the precisions that recurrent layers can multiply in, whatever their policy of float32 results."""


@dataclass(frozen=True)
class DTypePolicy:
    """What dtypes a layer has, as Keras tells it.

    Attributes
    ----------
    name : str
        One of `POLICIES`.
    """

    name: str

    @property
    def compute_dtype(self) -> str:
        """str: the dtype of what the layer returns."""
        return self.name.removeprefix("mixed_")

    @property
    def variable_dtype(self) -> str:
        """str: the dtype that weights are rounded to."""
        return "float32" if self.name.startswith("mixed_") else self.name


def policy(dtype: Any, owner: str) -> DTypePolicy:
    """Return the policy given as a name, a NumPy dtype, a policy, or the config of one; None is float32.

    Raises
    ------
    UnsupportedLayerError
        If it is another one; `owner` is who the message names.
    """
    if dtype is None:
        return DTypePolicy("float32")
    if isinstance(dtype, dict):
        name = dtype["config"]["name"]
    elif isinstance(dtype, str):
        name = dtype
    else:
        name = getattr(dtype, "name", None) or np.dtype(dtype).name
    if name not in POLICIES:
        raise UnsupportedLayerError(
            f"{owner}: expected a dtype of {', '.join(POLICIES)}; got {name!r}"
        )
    return DTypePolicy(name)


def narrow_precision(name: str | None) -> str | None:
    """Return a precision of `PRECISIONS`, None for "float32" and None.

    Raises
    ------
    ValueError
        If it is another one.
    """
    if name is not None and name not in PRECISIONS:
        raise ValueError(f"expected a precision of {', '.join(PRECISIONS)}; got {name!r}")
    return None if name == "float32" else name


def as_dtype(name: DTypeLike) -> np.dtype:
    """Return NumPy's dtype of this name; for bfloat16 it is float32 where there is no `ml_dtypes`."""
    if isinstance(name, str) and name == "bfloat16":
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            return np.dtype(np.float32)
        return np.dtype(bfloat16)
    return np.dtype(name)


def is_half(dtype: np.dtype) -> bool:
    """Return whether a dtype is float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype.name in HALVES


def is_floating(dtype: np.dtype) -> bool:
    """Return whether a dtype is one of floating-point numbers, bfloat16 included."""
    return dtype.kind == "f" or is_half(dtype)


def widened(array: np.ndarray) -> np.ndarray:
    """Return an array of half-precision numbers in float32, any other as it is."""
    return array.astype(np.float32) if is_half(array.dtype) else array


def rounded(x: ArrayLike, name: str) -> np.ndarray:
    """Return numbers rounded to the half-precision type `name`, in a new float32 array."""
    wide = np.array(x, np.float32, order="C")
    with np.errstate(over="ignore"):
        if name == "float16":
            return wide.astype(np.float16).astype(np.float32)
    bits = wide.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(wide), wide, nearest.view(np.float32))
