"""Keras's Lambda: a function as a layer."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fastrnn._types import Config, Nested
from fastrnn.layers.base import Layer
from fastrnn.layers.own_call import map_shapes


class Lambda(Layer):
    """A function of NumPy arrays.

    Parameters
    ----------
    function : callable
        From an array, or arrays in the structure of the layer's input, to arrays; it gets the input's mask, too, if it
        has an argument `mask`.
    output_shape : tuple of int or None, or callable, optional
        The output's shape without the batch, or a function from the input's with the batch to the output's with it;
        found out by trying the function by default.
    mask : array or callable, optional
        The output's mask, or a function of the inputs and their mask; none by default.
    arguments : dict, optional
        Further arguments of the function.
    """

    arguments = ("function",)

    def __init__(
        self,
        function: Callable[..., Nested],
        output_shape: Any = None,
        mask: Any = None,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise TypeError(f"layer {self.name!r}: expected a function; got {function!r}")
        self.function, self.mask, self._output_shape = function, mask, output_shape
        self.options = dict(arguments or {})
        self.supports_masking = mask is not None
        self._tells_output_shape = output_shape is not None
        parameters = _parameters(function)
        self._takes_mask = "mask" in parameters
        self.built = True

    def get_config(self) -> Config:
        """Not possible: a function is not data.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(f"layer {self.name!r}: a function has no config")

    def call(self, inputs: Nested, mask: Nested = None) -> Nested:
        options = {"mask": mask} if self._takes_mask else {}
        return self.function(inputs, **options, **self.options)

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> Nested:
        return self.mask(inputs, previous_mask) if callable(self.mask) else self.mask

    def compute_output_shape(self, input_shape: Nested) -> Nested:
        if self._output_shape is None:
            return super().compute_output_shape(input_shape)
        if callable(self._output_shape):
            return self._output_shape(input_shape)
        batch = input_shape[0]
        return map_shapes(lambda shape: (batch, *shape), self._output_shape)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # a function of NumPy's that does not tell
        return ()
