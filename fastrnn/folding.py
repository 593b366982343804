"""What a plan can compute before it runs: steps that vanish into the steps that read them.

A rule is a function of a step and of all steps that read its one target. It returns what these become when they read
the step's own sources instead, or None where it has nothing to say. Weights are folded in float64 and rounded once.
"""

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastrnn import activations
from fastrnn.plan import Activate, Affine, Dense, Lookup, Recurrence, Step, Table, is_elementwise

if TYPE_CHECKING:
    from typing_extensions import TypeIs

S = TypeVar("S", bound=Step)

MOST_CANCELLED = 0.75
"""How many deviations a mean may be from 0 for its subtraction to move behind a product.

x W - mean W rounds sums that are larger than what is left of them by the root of 1 + (mean / deviation)**2: with 0.75
the error is 1.25 times that of normalised inputs, with 7.5 it was 7 times.
"""

MOST_TABLE_BYTES = 1 << 25
"""Largest table of projected rows, unless it is smaller than the table itself.

Looked up, the projection costs a read of its row and no product: Embedding(10000, 64) and LSTM(64) over 100 steps take
70 us instead of 97, and 2900 instead of 4550 for 32 rows. Beyond this size, in main memory, little was gained or lost.
"""

Rule = Callable[[Step, Sequence[Step]], "list[Step] | None"]


def fold(steps: Sequence[Step], kept: Collection[int]) -> list[Step]:
    """Return the steps with every rule applied as often as it can be.

    Parameters
    ----------
    steps : sequence of Step
    kept : collection of int
        Buffers that are needed as they are: the plan's outputs.
    """
    folded = list(steps)
    readers = _readers(folded)
    place = 0
    while place < len(folded):
        step = folded[place]
        of_step = readers.get(step.targets[0], []) if len(step.targets) == 1 else []
        become = None
        if of_step and step.targets[0] not in kept:
            with np.errstate(all="ignore"):
                become = next(filter(None, (rule(step, of_step) for rule in RULES)), None)
        if become is None:
            place += 1
            continue
        new = {id(reader): one for reader, one in zip(of_step, become, strict=True)}
        del folded[place]
        folded = [new.get(id(other), other) for other in folded]
        readers = _readers(folded)
        # What wrote the sources may fold into what reads them now.
        sources = {source for one in become for source in one.sources}
        writers = (i for i, other in enumerate(folded) if sources.intersection(other.targets))
        place = min(place, next(writers, place))
    return folded


def _readers(steps: Sequence[Step]) -> dict[int, list[Step]]:
    """The steps that read each buffer."""
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for source in set(step.sources):
            readers.setdefault(source, []).append(step)
    return readers


def dense_and_activation(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A Dense without activation, and an activation number by number."""
    if not _is_linear_dense(step) or not _is_only(readers, Activate, step):
        return None
    (reader,) = readers
    if not is_elementwise(reader.activation):
        return None
    return [replace(step, targets=reader.targets, activation=reader.activation)]


def dense_and_affine(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A Dense without activation, and a map of its columns."""
    if not _is_linear_dense(step) or not _is_only(readers, Affine, step):
        return None
    (reader,) = readers
    scale, shift = _scale_and_shift(reader)
    bias = shift if step.bias is None else step.bias * scale + shift
    return _with_weights([replace(step, targets=reader.targets)], [step.kernel * scale], [bias])


def lookup_and_affine(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A table, and a map of its columns."""
    if not isinstance(step, Lookup) or not _is_only(readers, Affine, step):
        return None
    (reader,) = readers
    (rows,) = reader.run([step.table.rows])
    return [replace(step, targets=reader.targets, table=Table(rows, step.table.owner))]


def affine_and_affine(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A map, and a map of its result: ((x - c) s + d - e) t + f = (x - c) s t + (d - e) t + f."""
    if not isinstance(step, Affine) or not _is_only(readers, Affine, step):
        return None
    (reader,) = readers
    scale, shift = _scale_and_shift(reader)
    scales = _rounded(step.scale * scale, step.dtype)
    shifts = _rounded(step.shift * scale + shift, step.dtype)
    if scales is None or shifts is None:
        return None
    return [replace(step, targets=reader.targets, scale=scales, shift=shifts)]


def affine_and_products(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A map, and nothing but products of its result: the rows of their kernels are scaled."""
    if not isinstance(step, Affine) or not _only_multiply(readers, step):
        return None
    scale = step.scale.astype(np.float64)
    if not np.abs(step.center * scale).max() <= MOST_CANCELLED:
        return None
    kernels, biases = [], []
    for reader in readers:
        weights = _weights_of(reader)
        kernel = _rounded(scale[:, np.newaxis] * weights.kernel, step.dtype)
        if kernel is None:
            return None
        # The means of what is multiplied by the rounded kernel: its rounding then counts for what is left of x alone.
        bias = (
            step.shift.astype(np.float64) @ weights.kernel - step.center.astype(np.float64) @ kernel
        )
        kernels.append(kernel)
        biases.append(bias + (0 if weights.bias is None else weights.bias))
    moved = [replace(one, sources=(*step.sources, *one.sources[1:])) for one in readers]
    return _with_weights(moved, kernels, biases)


def lookup_and_recurrences(step: Step, readers: Sequence[Step]) -> list[Step] | None:
    """A table, and nothing but recurrences over its rows: they look up the projected rows."""
    if not isinstance(step, Lookup) or not _only_multiply(readers, step):
        return None
    recurrences = [reader for reader in readers if isinstance(reader, Recurrence)]
    if len(recurrences) < len(readers):
        return None
    rows = step.table.rows
    columns = sum(_weights_of(reader).kernel.shape[1] for reader in recurrences)
    if columns > rows.shape[1] and len(rows) * columns * rows.itemsize > MOST_TABLE_BYTES:
        return None
    return [
        replace(reader, sources=(*step.sources, *reader.sources[1:]), table=step.table)
        for reader in recurrences
    ]


RULES: tuple[Rule, ...] = (
    dense_and_activation,
    dense_and_affine,
    lookup_and_affine,
    affine_and_affine,
    affine_and_products,
    lookup_and_recurrences,
)


def _is_linear_dense(step: Step) -> "TypeIs[Dense]":
    return isinstance(step, Dense) and step.activation is activations.linear


def _is_only(readers: Sequence[Step], kind: type[S], step: Step) -> "TypeIs[list[S]]":
    """Whether there is one reader, of this kind and of the step's dtype."""
    return len(readers) == 1 and isinstance(readers[0], kind) and readers[0].dtype == step.dtype


def _only_multiply(readers: Sequence[Step], step: Step) -> "TypeIs[list[Dense | Recurrence]]":
    """Whether the readers do nothing with what `step` gives but to multiply it by a kernel.

    A convolution is no such product: beyond the edges it has zeros, which a map would change.
    """
    return all(
        (type(reader) is Dense or (type(reader) is Recurrence and reader.kernel is not None))
        and reader.dtype == step.dtype
        and not reader.indices
        and reader.sources[0] == step.targets[0]
        and step.targets[0] not in reader.sources[1:]
        for reader in readers
    )


def _weights_of(step: Dense | Recurrence) -> Any:
    """What has the step's `kernel` and `bias`."""
    return step.cell if isinstance(step, Recurrence) else step


def _scale_and_shift(step: Affine) -> tuple[np.ndarray, np.ndarray]:
    """The map as x scale + shift, in float64."""
    scale = step.scale.astype(np.float64)
    return scale, step.shift - step.center * scale


def _rounded(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray | None:
    """`array` in a step's dtype, or None if it is not finite there."""
    result = np.ascontiguousarray(array, dtype)
    return result if np.isfinite(result).all() else None


def _with_weights(
    steps: Sequence[Dense | Recurrence], kernels: Sequence[np.ndarray], biases: Sequence[np.ndarray]
) -> list[Step] | None:
    """The steps with other kernels and biases, or None if one of these is not finite."""
    changed: list[Step] = []
    for step, exact_kernel, exact_bias in zip(steps, kernels, biases, strict=True):
        kernel, bias = _rounded(exact_kernel, step.dtype), _rounded(exact_bias, step.dtype)
        if kernel is None or bias is None:
            return None
        if isinstance(step, Recurrence):
            cell = copy(_weights_of(step))
            cell.kernel, cell.bias = kernel, bias
            changed.append(replace(step, cell=cell))
        else:
            changed.append(replace(step, kernel=kernel, bias=bias))
    return changed
