"""What it may cost to try an operation out: a file's operations are computed on small arrays before a model is used.

Constants in a file say how large a result is, so the cost is told from the arguments, before anything is computed.
"""

import contextlib
import contextvars
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn._nested import flatten
from fastrnn._types import Nested

MOST_NUMBERS = 1 << 26
"""In an array that an operation is tried on, or gives; no real model comes near."""

MOST_IN_ALL = 1 << 32
"""Numbers that all trials of one model may compute, which takes seconds."""

NUMBERS_A_PART = 1000
"""What an array costs on its own, however small."""

FLOPS_A_NUMBER = 256
"""How many multiply-adds of a product of matrices take as long as another operation for one number."""


@dataclass
class _Budget:
    left: float
    most_numbers: int


Arguments = Any
"""A function's arguments, as attributes."""

_CUTTING = ("hsplit", "vsplit", "dsplit")
_QUANTILES = ("nanpercentile", "nanquantile", "percentile", "quantile")


class TooCostlyError(ValueError):
    """An operation would cost more than it may."""


_budget: contextvars.ContextVar[_Budget | None] = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def limited(max_bytes: int | None = None) -> Iterator[None]:
    """Let the operations that are computed inside cost no more than `MOST_IN_ALL` together.

    An array that one takes or gives has at most `MOST_NUMBERS`, and in float64 at most `max_bytes`.
    """
    if _budget.get() is not None:
        yield
        return
    most = MOST_NUMBERS if max_bytes is None else min(MOST_NUMBERS, max_bytes // 8)
    token = _budget.set(_Budget(MOST_IN_ALL, most))
    try:
        yield
    finally:
        _budget.reset(token)


def charge(function: Callable[..., Any], args: Sequence[Nested], kwargs: dict[str, Nested]) -> None:
    """Raise TooCostlyError if function(*args, **kwargs) would cost too much; nothing outside of `limited`."""
    if _budget.get() is not None:
        _spend(_cost(function.__name__, function, args, kwargs), function.__name__)


def charge_array(shape: Sequence[int]) -> None:
    """Raise TooCostlyError if an array of this shape would cost too much; nothing outside of `limited`."""
    _spend(math.prod(shape), f"input of shape {tuple(shape)}")


def _spend(cost: float, what: str) -> None:
    budget = _budget.get()
    if budget is None:
        return
    if not cost <= budget.most_numbers:
        raise TooCostlyError(
            f"{what}: expected an operation that takes and gives at most {budget.most_numbers} numbers; "
            f"got {cost:.3g}"
        )
    budget.left -= cost
    if budget.left < 0:
        raise TooCostlyError(f"expected operations that give at most {MOST_IN_ALL} numbers in all")


def _cost(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Nested],
    kwargs: dict[str, Nested],
) -> float:
    cost = _of_broadcast([shape for one in (*args, *kwargs.values()) for shape in _shapes_in(one)])
    if name in _COSTS:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        cost = max(cost, _COSTS[name](SimpleNamespace(**bound.arguments)))
    return cost


def _shapes_in(argument: Nested) -> list[tuple[int, ...]]:
    """The shapes of the arrays that an argument holds; numbers in lists are one."""
    if isinstance(argument, (list, tuple)):
        if not any(isinstance(leaf, np.ndarray) for leaf in flatten(argument)):
            with contextlib.suppress(ValueError):  # lists of several lengths
                return [np.shape(argument)]
        return [shape for part in argument for shape in _shapes_in(part)]
    return [np.shape(argument)]


def _of_broadcast(shapes: Sequence[tuple[int, ...]]) -> float:
    """The size of arrays of these shapes if they are broadcast, and of all of them one after the other."""
    total = float(sum(map(math.prod, shapes)))
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    together: float = 1
    for sizes in zip(*padded, strict=True):
        several = set(sizes) - {1}
        if len(several) > 1:
            return total
        together *= max(sizes)
    return max(total, together)


def _size(x: Any) -> float:
    return float(sum(map(math.prod, _shapes_in(x))))


def _sizes(*arrays: Any) -> float:
    """The size of an array that has the axes of all."""
    return math.prod(map(_size, arrays))


def _product(numbers: Any) -> float:
    return math.prod(max(1.0, abs(float(number))) for number in np.ravel(numbers))


def _largest(numbers: Any) -> float:
    return float(np.max(np.abs(numbers), initial=0))


def _along(x: Any, axis: int | None) -> float:
    return _size(x) if axis is None else np.shape(x)[axis]


def _arange(a: Arguments) -> float:
    first, last = (0, a.start) if a.stop is None else (a.start, a.stop)
    return abs((float(last) - float(first)) / float(1 if a.step is None else a.step))


def _get_item(a: Arguments) -> float:
    parts = a.key if isinstance(a.key, (list, tuple)) else [a.key]
    return _size(a.x) * _product([_size(part) for part in parts])


def _pad(a: Arguments) -> float:
    shape = np.shape(a.x)
    widths = np.broadcast_to(np.asarray(a.pad_width, np.float64), (len(shape), 2)).sum(axis=1)
    return math.prod(np.add(shape, widths).tolist())


def _parts(x: Any, sections: Any, axis: int) -> float:
    """Of `x` cut into arrays; more than there are numbers are empty ones."""
    count = _largest(sections) if np.ndim(sections) == 0 else np.size(sections)
    return _size(x) + count * NUMBERS_A_PART


def _matmul(a: Arguments) -> float:
    first, second = np.shape(a.x1) or (1,), np.shape(a.x2) or (1,)
    columns = second[-1] if len(second) > 1 else 1
    result = _of_broadcast([first[:-2], second[:-2]]) * math.prod(first[-2:-1]) * columns
    return max(result, result * first[-1] / FLOPS_A_NUMBER)


def _dot(a: Arguments) -> float:
    depth = _along(a.x1, -1) if np.ndim(a.x1) else 1
    return _products(_sizes(a.x1, a.x2), depth)


def _tensordot(a: Arguments) -> float:
    shape = np.shape(a.x1)
    if np.ndim(a.axes) == 0:
        depth = math.prod(shape[len(shape) - int(a.axes) :])
    else:
        depth = math.prod(shape[axis] for axis in np.ravel(a.axes[0]))
    return _products(_sizes(a.x1, a.x2), depth)


def _products(of_all: float, depth: float) -> float:
    """Of products that sum over axes of `depth` numbers, of which `of_all` counts those of both arrays."""
    flops = of_all / max(1, depth)
    return max(flops / max(1, depth), flops / FLOPS_A_NUMBER)


def _einsum(a: Arguments) -> float:
    """Of the largest array that may come up: of two operands the result, else one with every axis."""
    subscripts, _, kept = a.subscripts.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    rest = 1.0
    for term, operand in zip(subscripts.split(","), a.operands, strict=True):
        before, dots, after = term.partition("...")
        shape = np.shape(operand)
        named = [*shape[: len(before)], *(shape[len(shape) - len(after) :] if after else ())]
        if dots:
            rest = max(rest, math.prod(shape[len(before) : len(shape) - len(after)]))
        for label, size in zip(before + after, named, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    every = rest * math.prod(map(float, sizes.values()))
    if len(a.operands) > 2:
        return every
    labels = set(kept) if "->" in a.subscripts else set(sizes)
    result = rest * math.prod(float(size) for label, size in sizes.items() if label in labels)
    return max(result, every / FLOPS_A_NUMBER)


def _attention(a: Arguments) -> float:
    return _size(a.query) * _along(a.key, 1) / max(1, np.shape(a.query)[-1])


def _matrix(x: Any) -> float:
    """Of taking a matrix apart, whose work grows with the cube of its sides."""
    return _size(x) * max(np.shape(x)[-2:], default=1)


def _norm(x: Any, axis: Any) -> float:
    return _size(x) if isinstance(axis, int) else _matrix(x)


def _transform(x: Any, length: int | None) -> float:
    return _size(x) if length is None else _size(x) / max(1, _along(x, -1)) * abs(length)


_COSTS: dict[str, Callable[[Arguments], float]] = {
    "arange": _arange,
    "array_split": lambda a: _parts(a.x, a.indices_or_sections, a.axis),
    "broadcast_to": lambda a: _product(a.shape),
    "cdist": lambda a: _size(a.x) * _along(a.y, -2),
    "det": lambda a: _matrix(a.x),
    "diag": lambda a: (_size(a.x) + abs(a.k)) ** 2 if np.ndim(a.x) == 1 else 0,
    "diagflat": lambda a: (_size(a.x) + abs(a.k)) ** 2,
    "diff": lambda a: _size(a.a) * a.n,
    "dot": _dot,
    "dot_product_attention": _attention,
    "eigh": lambda a: _matrix(a.x),
    "einsum": _einsum,
    "extract_sequences": lambda a: _size(a.x) * a.sequence_length,
    "full": lambda a: _product(a.shape),
    "get_item": _get_item,
    "inner": _dot,
    "inv": lambda a: _matrix(a.x),
    "irfft": lambda a: _transform(a.x[0], a.fft_length),
    "kron": lambda a: _sizes(a.x1, a.x2),
    "linspace": lambda a: _of_broadcast([np.shape(a.start), np.shape(a.stop)]) * abs(a.num),
    "logdet": lambda a: _matrix(a.x),
    "matmul": _matmul,
    "meshgrid": lambda a: _sizes(*a.x) * len(a.x),
    "multi_hot": lambda a: _size(a.inputs) * (a.kwargs.get("num_tokens") or a.num_classes),
    "norm": lambda a: _norm(a.x, a.axis),
    "normalize": lambda a: _norm(a.x, a.axis),
    "one_hot": lambda a: _size(a.x) * a.num_classes,
    "outer": lambda a: _sizes(a.x1, a.x2),
    "pad": _pad,
    "qr": lambda a: _matrix(a.x),
    "repeat": lambda a: _size(a.x) * _largest(a.repeats),
    "rfft": lambda a: _transform(a.x, a.fft_length),
    "scatter": lambda a: _product(a.shape),
    "slogdet": lambda a: _matrix(a.x),
    "solve": lambda a: _matrix(a.a) + _sizes(a.a, a.b) / max(1, _along(a.a, -1)),
    "split": lambda a: _parts(a.x, a.indices_or_sections, a.axis),
    "svd": lambda a: _matrix(a.x),
    "take": lambda a: _sizes(a.x, a.indices) / max(1, _along(a.x, a.axis)),
    "take_along_axis": lambda a: _sizes(a.x, a.indices) / max(1, _along(a.x, a.axis)),
    "tensordot": _tensordot,
    "tile": lambda a: _size(a.x) * _product(a.repeats),
    "unstack": lambda a: _parts(a.x, _along(a.x, a.axis), a.axis),
    "vander": lambda a: _size(a.x) * (_size(a.x) if a.N is None else a.N),
    **{name: lambda a: _parts(a.x, a.indices_or_sections, 0) for name in _CUTTING},
    **{name: lambda a: _sizes(a.x, a.q) for name in _QUANTILES},
}
