"""The compiled core."""

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

ACTIVATIONS: Final[dict[str, int]]
ROW_ACTIVATIONS: Final[tuple[str, ...]]
PRECISIONS: Final[dict[str | None, int]]
CELLS: Final[dict[str, int]]
MERGE_MODES: Final[dict[str, int]]
POOL_MODES: Final[dict[str, int]]
BUILDS: Final[dict[tuple[str, int], Build]]

_Weights = NDArray[np.floating[Any]]
_Array = NDArray[Any]

def cpu_has(level: str) -> bool: ...
def set_num_threads(n: int) -> None: ...
def use_limits(here: ContextVar[int | None], openmp: int) -> None: ...
def get_num_threads() -> int: ...
def levels_built() -> list[str]: ...
def force(*, rows_in_lanes: str = "auto", hoisting: str = "auto") -> None: ...

class Build:
    @property
    def name(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def vector_bytes(self) -> int: ...
    @property
    def dot_products(self) -> tuple[str, ...]: ...

@disjoint_base
class Step:
    @property
    def build(self) -> Build: ...
    @property
    def sources(self) -> tuple[int, ...]: ...
    @property
    def targets(self) -> tuple[int, ...]: ...

@disjoint_base
class Recurrent(Step):
    def __init__(
        self,
        build: Build,
        cell: str,
        kernel: _Weights,
        recurrent_kernel: _Weights,
        bias: _Weights | None,
        recurrent_bias: _Weights | None,
        activation: str,
        recurrent_activation: str,
        *,
        x: int,
        y: int | None,
        mask: int | None = None,
        initial: Sequence[int | None] = (),
        final: Sequence[int | None] = (),
        return_sequences: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        table: _Weights | None = None,
        precision: str | None = None,
        portable: bool = False,
    ) -> None: ...

@disjoint_base
class ConvRecurrent(Step):
    def __init__(
        self,
        build: Build,
        kernel: _Weights,
        recurrent_kernel: _Weights,
        bias: _Weights | None,
        activation: str,
        recurrent_activation: str,
        strides: Sequence[int],
        dilation: Sequence[int],
        *,
        same: bool,
        channels_first: bool,
        x: int,
        y: int | None,
        mask: int | None = None,
        initial: Sequence[int | None] = (),
        final: Sequence[int | None] = (),
        return_sequences: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
    ) -> None: ...

@disjoint_base
class Dense(Step):
    def __init__(
        self,
        build: Build,
        kernel: _Weights,
        bias: _Weights | None,
        activation: str,
        *,
        x: int,
        y: int,
    ) -> None: ...

@disjoint_base
class Activate(Step):
    def __init__(self, build: Build, activation: str, *, x: int, y: int) -> None: ...

@disjoint_base
class Merge(Step):
    def __init__(
        self, build: Build, mode: str, *, a: int, b: int, y: int, backwards: bool = False
    ) -> None: ...

@disjoint_base
class Lookup(Step):
    def __init__(self, build: Build, table: _Weights, *, x: int, y: int) -> None: ...

@disjoint_base
class NotZero(Step):
    def __init__(self, build: Build, *, x: int, y: int) -> None: ...

@disjoint_base
class Blank(Step):
    def __init__(self, build: Build, value: float, *, x: int, y: int, mask: int) -> None: ...

@disjoint_base
class Affine(Step):
    def __init__(
        self, build: Build, center: _Weights, scale: _Weights, shift: _Weights, *, x: int, y: int
    ) -> None: ...

@disjoint_base
class Reshape(Step):
    def __init__(self, build: Build, shape: Sequence[int], *, x: int, y: int) -> None: ...

@disjoint_base
class Repeat(Step):
    def __init__(self, build: Build, n: int, *, x: int, y: int) -> None: ...

@disjoint_base
class Pool(Step):
    def __init__(
        self,
        build: Build,
        mode: str,
        *,
        x: int,
        y: int,
        mask: int | None = None,
        window: int = 0,
        stride: int = 1,
        same: bool = False,
    ) -> None: ...

@disjoint_base
class Program:
    def __new__(
        cls,
        build: Build,
        n_buffers: int,
        steps: Sequence[Step],
        inputs: Sequence[int],
        outputs: Sequence[int],
        masks: Collection[int] = (),
    ) -> Self: ...
    @property
    def build(self) -> Build: ...
    def expect(self, shapes: Sequence[tuple[int | None, ...]], whole: bool = False) -> None: ...
    def explain(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]: ...
    def run(self, arrays: _Array | tuple[_Array, ...]) -> _Array | tuple[_Array, ...] | None: ...

@disjoint_base
class Window(Step):
    def __init__(
        self, build: Build, taps: int, dilation: int, *, x: int, before: int, y: int, after: int
    ) -> None: ...

@disjoint_base
class Hold(Step):
    def __init__(
        self, build: Build, *, x: int, mask: int, before: int, y: int, after: int, sequence: bool
    ) -> None: ...

@disjoint_base
class Streams:
    def __new__(
        cls,
        program: Program,
        inputs: Sequence[tuple[int, ...]],
        timed: Sequence[bool],
        states: Sequence[_Array],
        constants: Sequence[_Array],
        picked: bool = False,
    ) -> Self: ...
    def acquire(self) -> bool: ...
    def release(self) -> None: ...
    def step(
        self,
        inputs: _Array | tuple[_Array, ...],
        out: _Array | None = None,
        slots: NDArray[np.int64] | None = None,
    ) -> Any: ...

@disjoint_base
class Slots:
    def __new__(cls, capacity: int) -> Self: ...
    @property
    def capacity(self) -> int: ...
    @property
    def n_open(self) -> int: ...
    def has(self, number: object) -> bool: ...
    def open(self) -> int: ...
    def close(self, number: int) -> None: ...
    def places_of(self, numbers: Sequence[int] | _Array) -> NDArray[np.int64]: ...
