"""Cells beside Keras's own: stacks of cells, and the cells that users write."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np

from fastrnn import plan, reference
from fastrnn._nested import flatten, map_structure
from fastrnn._types import Config, Shape
from fastrnn.layers.base import Layer, deserialize, serialize
from fastrnn.layers.rnn import Cell, KerasCell, OverTime, StatesLike, last_step_first


def as_cell(cell: Any, dtype: np.dtype) -> Cell:
    """Return what runs a cell in an `RNN`; `dtype` is what a user's cell computes in.

    Raises
    ------
    ValueError
        If it has no `call` or no `state_size`.
    """
    built_in = isinstance(cell, Cell) and getattr(type(cell), "call", None) in (None, Layer.call)
    return cell if built_in else UserCell(cell, dtype)


class UserCell(Cell):
    """A user's own cell: any object with `state_size` and `call(inputs, states)`.

    Parameters
    ----------
    cell : object
    dtype : numpy.dtype
        Of the arrays it gets; what it returns is converted to it.

    Raises
    ------
    ValueError
        If it is no such object.
    """

    step_shape = None

    def __init__(self, cell: Any, dtype: np.dtype) -> None:
        call = getattr(cell, "call", None) or cell
        if not callable(call):
            raise ValueError(f"expected a cell with a method `call`; got {cell!r}")
        size = getattr(cell, "state_size", None)
        if not isinstance(size, (int, list, tuple)):
            raise ValueError(
                "expected a cell with a `state_size`, an integer or a list of integers (one for each state); "
                f"got state_size={size!r} of {cell!r}"
            )
        self.cell, self.call, self.compute_dtype = cell, call, dtype
        accepted = inspect.signature(call).parameters.values()
        any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
        names = {parameter.name for parameter in accepted}
        self.takes_constants = any_keyword or "constants" in names
        self.options: dict[str, Any] = {"training": False} if "training" in names else {}
        self._kept_example: list[Any] | None = None

    @property
    def _is_built(self) -> bool:
        return not isinstance(self.cell, Layer) or self.cell.built

    def _example(self) -> list[Any]:
        """States for a batch of one, in their structure; kept, since every step asks, once nothing can change them."""
        if not self._is_built:
            return self._zeros()
        if self._kept_example is None:
            makes_states = hasattr(self.cell, "get_initial_state")
            self._kept_example = self._made_by_cell(1) if makes_states else self._zeros()
        return self._kept_example

    def _zeros(self) -> list[Any]:
        size = self.cell.state_size
        sizes = _lists(size) if isinstance(size, (list, tuple)) else [size]
        made: list[Any] = map_structure(lambda n: np.zeros((1, n), self.compute_dtype), sizes)
        return made

    def _made_by_cell(self, batch: int) -> list[Any]:
        states = _lists(self.cell.get_initial_state(batch_size=batch))
        made: list[Any] = map_structure(
            lambda state: np.asarray(state, self.compute_dtype),
            states if isinstance(states, list) else [states],
        )
        return made

    @property
    def state_structure(self) -> list[Any]:
        return self._example()

    def state_shapes(self, step_shape: Shape | None = None) -> list[Shape]:
        return [state.shape[1:] for state in flatten(self._example())]

    def output_shape(self, step_shape: Shape) -> Shape:
        size = getattr(self.cell, "output_size", None)
        if size is None:
            return self.state_shapes(step_shape)[0]
        return (size,) if isinstance(size, int) else tuple(size)

    def initial_state_of(self, batch: int) -> list[np.ndarray]:
        if hasattr(self.cell, "get_initial_state"):
            return flatten(self._made_by_cell(batch))
        return [np.repeat(state, batch, axis=0) for state in flatten(self._example())]

    def build_for(self, step_shape: Shape) -> None:
        if not self._is_built:
            self.cell.build(step_shape)
            self.cell.built = True
            self._kept_example = None

    def with_constants(self, constants: Sequence[np.ndarray]) -> "UserCell":
        """Return the cell with `constants` given to its every step."""
        cell = copy(self)
        cell.options = {**self.options, "constants": [_read_only(array) for array in constants]}
        return cell

    def step(self, x: np.ndarray, states: reference.States) -> tuple[np.ndarray, reference.States]:
        given = self.structured([_read_only(state) for state in states])
        output, new = self.call(_read_only(x), given, **self.options)
        flat = flatten(new)
        if len(flat) != len(states):
            raise ValueError(
                f"cell {self.cell!r}: expected its call to return {len(states)} states; got {len(flat)}"
            )
        dtype = self.compute_dtype
        return np.asarray(output, dtype), tuple(np.asarray(state, dtype) for state in flat)


def _lists(structure: Any) -> Any:
    """`structure` with lists in place of tuples, named ones included."""
    if isinstance(structure, (list, tuple)):
        return [_lists(part) for part in structure]
    return structure


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that a user's code cannot write through to buffers of ours or arrays of the caller."""
    view = array.view()
    view.flags.writeable = False
    return view


class StackedRNNCells(KerasCell):
    """Cells one on top of the other, as one cell; its states are one entry a cell.

    Parameters
    ----------
    cells : list of cells
        Whatever `RNN` takes.
    **kwargs
        `Layer`'s arguments.

    Raises
    ------
    ValueError
        If there are none, or one is no cell.
    """

    def __init__(self, cells: Iterable[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells = list(cells)
        if not self.cells:
            raise ValueError(f"cell {self.name!r}: expected at least one cell; got none")
        self._cells = [as_cell(cell, self.compute_dtype) for cell in self.cells]
        for cell in self.cells:
            if isinstance(cell, Layer):
                cell._users.append(self)

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("cells", [cell for cell in self.cells if isinstance(cell, Layer)])]

    def get_config(self) -> Config:
        return {**super().get_config(), "cells": [serialize(cell) for cell in self.cells]}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, Any] | None = None) -> Self:
        cells = [
            deserialize(cell, custom_objects) if isinstance(cell, dict) else cell
            for cell in config["cells"]
        ]
        return cls(**{**config, "cells": cells})

    @property
    def state_size(self) -> list[Any]:
        """list: one entry a cell."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> Any:
        """The last cell's."""
        return self._cells[-1].output_shape(())[-1]

    @property
    def step_shape(self) -> Shape | None:  # type: ignore[override]  # it is the first cell's
        return self._cells[0].step_shape

    @property
    def stacked(self) -> Sequence[Cell]:
        return self._cells

    @property
    def state_structure(self) -> list[Any]:
        return [cell.state_structure for cell in self._cells]

    @property
    def state_names(self) -> list[str]:
        return [f"{i}/{name}" for i, cell in enumerate(self._cells) for name in cell.state_names]

    @property
    def takes_constants(self) -> bool:  # type: ignore[override]  # it depends on the cells
        return any(cell.takes_constants for cell in self._cells)

    def _step_shapes(self, step_shape: Shape | None) -> Iterator[tuple[Cell, Shape]]:
        """The cells with the shape of what each gets at a step."""
        shape = step_shape or ()
        for cell in self._cells:
            yield cell, shape
            shape = cell.output_shape(shape)

    def state_shapes(self, step_shape: Shape | None = None) -> list[Shape]:
        return [
            state
            for cell, shape in self._step_shapes(step_shape)
            for state in cell.state_shapes(shape)
        ]

    def output_shape(self, step_shape: Shape) -> Shape:
        for cell, shape in self._step_shapes(step_shape):
            output = cell.output_shape(shape)
        return output

    def initial_state_of(self, batch: int) -> list[np.ndarray]:
        return [state for cell in self._cells for state in cell.initial_state_of(batch)]

    def build(self, input_shape: Shape) -> None:
        for cell, shape in self._step_shapes(tuple(input_shape[1:])):
            cell.build_for((input_shape[0], *shape))
        super().build(input_shape)

    def as_given(self, states: reference.States, given: StatesLike) -> Any:
        entries = self.structured(states)
        parts = given if isinstance(given, (list, tuple)) and len(given) == len(entries) else []
        for number, part in enumerate(parts):
            if not isinstance(part, (list, tuple)):
                (entries[number],) = entries[number]
        return entries[0] if len(entries) == 1 else entries

    def _shares(self, states: Sequence[Any]) -> Iterator[tuple[Cell, list[Any]]]:
        """The cells with their parts of flat states; with none of none."""
        first = 0
        for cell in self._cells:
            last = first + cell.n_states
            yield cell, list(states[first:last])
            first = last

    def step(self, x: np.ndarray, states: reference.States) -> tuple[np.ndarray, reference.States]:
        new: list[np.ndarray] = []
        for cell, share in self._shares(states):
            x, stepped = cell.step(x, tuple(share))
            new += stepped
        return x, tuple(new)

    def lower_over_time(
        self,
        builder: plan.Builder,
        x: plan.Value,
        initial: list[plan.Value],
        over: OverTime,
    ) -> tuple[plan.Value, list[plan.Value]]:
        """Write the cells' steps one after the other: each over the whole sequence that the one below it gives."""
        *below, (last, last_share) = self._shares(initial)
        final: list[plan.Value] = []
        mask = x.mask
        for cell, share in below:
            whole = replace(over, return_sequences=True, zero_output_for_mask=False)
            y, states = _lower_with_constants(cell, builder, x, share, whole)
            final += states
            if over.go_backwards and mask is not None:
                # What a cell gives comes in the order of processing.
                flipped = builder.mask()
                builder.add(plan.Apply((mask,), (flipped,), None, last_step_first, _BOOL))
                mask = flipped
            over = replace(over, go_backwards=False)
            x = replace(y, mask=mask)
        y, states = _lower_with_constants(last, builder, x, last_share, over)
        return y, final + states


_BOOL = np.dtype(bool)


def _lower_with_constants(
    cell: Cell, builder: plan.Builder, x: plan.Value, initial: list[plan.Value], over: OverTime
) -> tuple[plan.Value, list[plan.Value]]:
    """`cell.lower_over_time`, with the constants if it takes any."""
    constants = over.constants if cell.takes_constants else ()
    return cell.lower_over_time(builder, x, initial, replace(over, constants=constants))
