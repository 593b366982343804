"""Keras's attention layers: sums of values, weighted by how well their keys answer a query."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import activations, initializers, plan
from fastrnn._types import InitializerLike, Nested, Shape
from fastrnn.errors import NotStreamableError
from fastrnn.layers.arguments import fits, to_mask, to_numeric
from fastrnn.layers.base import Layer
from fastrnn.layers.core import positive_integer
from fastrnn.layers.einsum_dense import EinsumDense

_MASKED_LESS = 1e9
"""What the scores of masked keys are lower by, in Keras's Attention and in its Softmax."""


def _causal(scores: np.ndarray) -> np.ndarray:
    """Where the query at a step may look: at no later step of the keys."""
    return np.tri(*scores.shape[-2:], dtype=np.bool_)


class Attention(Layer):
    """Dot-product attention (Luong et al., 2015): softmax(query key') value.

    Called on a list [query, value] or [query, value, key] of (batch, steps, features); without a key it is the value.

    Parameters
    ----------
    use_scale : bool
        Multiply the scores by a weight.
    score_mode : str
        "dot", or "concat" for a weight times the sum of tanh(query + key).
    dropout : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    seed : optional
        Kept for the config.
    causal : bool
        Let every call use the causal mask, as the layers of Keras 2 could; not in the config.

    Notes
    -----
    Weights: scale () if `use_scale`, concat_score_weight () for "concat".

    A mask for the value says which of its steps count; steps of the output that the query's mask hides are zeros.
    """

    takes_several = True
    call_arguments = ("inputs", "mask", "training", "return_attention_scores", "use_causal_mask")
    arguments: ClassVar[tuple[str, ...]] = ("use_scale", "score_mode", "dropout", "seed")

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: object = None,
        *,
        causal: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ValueError(
                f"layer {self.name!r}: expected score_mode 'dot' or 'concat'; got {score_mode!r}"
            )
        self.use_scale, self.score_mode = use_scale, score_mode
        self.dropout, self.seed, self.causal = dropout, seed, causal

    def _refuse_training(self, training: bool) -> None:
        _refuse_dropout(self, self.dropout, training)

    def build(self, input_shape: Nested) -> None:
        """Create the weights for a list of the inputs' shapes."""
        if self.use_scale:
            self.add_weight((), "ones", name="scale")
        if self.score_mode == "concat":
            self.add_weight((), "ones", name="concat_score_weight")
        super().build(input_shape)

    @property
    def _adds_features(self) -> bool:
        """Whether scores come from sums of a query's and a key's features, to which one feature is broadcast."""
        return self.score_mode == "concat"

    def _check_input(self, shape: Nested) -> None:
        shapes = shape if isinstance(shape, (list, tuple)) else []
        if len(shapes) not in (2, 3) or not all(
            isinstance(one, (list, tuple)) and len(one) >= 2 for one in shapes
        ):
            raise ValueError(
                f"layer {self.name!r}: expected a list [query, value] or [query, value, key] of inputs "
                f"(batch, steps, features); got {shape}"
            )
        query, value, key = shapes[0], shapes[1], shapes[-1]
        spread = self._adds_features and 1 in (query[-1], key[-1])
        if not (spread or fits(query[-1:], key[-1:])):
            raise ValueError(
                f"layer {self.name!r}: expected a query and a key of as many features; got the shapes {shapes}"
            )
        if not fits(value[-2:-1], key[-2:-1]):
            raise ValueError(
                f"layer {self.name!r}: expected a value and a key of as many steps; got the shapes {shapes}"
            )

    def compute_output_shape(self, input_shape: Nested) -> Shape:
        """Return the output's shape, with the batch, for a list of the inputs'."""
        return (*input_shape[0][:-1], input_shape[1][-1])

    def __call__(
        self,
        inputs: Sequence[ArrayLike],
        mask: Sequence[ArrayLike | None] | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        """Compute the layer.

        Parameters
        ----------
        inputs : list of two or three array-like, each (batch, steps, features)
            Query, value, and the key if it is not the value.
        mask : list of array-like of bool, shape (batch, steps), or None, optional
            For query and value; one for the key has no effect.
        training : bool
        return_attention_scores : bool
            Return the weights of the values, (batch, query steps, value steps), too.
        use_causal_mask : bool
            Let no step of the query look at later steps of the value.

        Returns
        -------
        ndarray, or tuple of two ndarray
        """
        flags = {
            "training": training,
            "return_attention_scores": return_attention_scores,
            "use_causal_mask": use_causal_mask,
        }
        return self._call((inputs,), {"mask": mask, **flags})

    def _checked(self, given: dict[str, Nested]) -> dict[str, Nested]:
        what, first = f"layer {self.name!r}", self.call_arguments[0]
        inputs = given[first]
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(f"{what}: expected a list of inputs; got {type(inputs).__name__}")
        arrays = [to_numeric(x, what) for x in inputs]
        self._check_input([x.shape for x in arrays])
        masks = [*(given.get("mask") or []), None, None, None][: len(arrays)]
        checked = [
            None if one is None else to_mask(one, x.shape[:-1], what)
            for one, x in zip(masks, arrays, strict=True)
        ]
        return {**given, first: arrays, "mask": checked}

    def lower_call(
        self, builder: plan.Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write the steps of a call, in which the key's mask may be left out."""
        given = {**dict(zip(self.call_arguments, args, strict=False)), **kwargs}
        if given.get("mask") is not None:
            inputs, masks = given["inputs"], given["mask"]
            given["mask"] = [*masks, None][: len(inputs)]
        return super().lower_call(builder, [], given)

    def lower(
        self,
        builder: plan.Builder,
        x: list[plan.Value],
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        query, value = x[:2]
        masks = (query.mask, value.mask)
        causal = use_causal_mask or self.causal
        several = len(x)

        def compute(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
            inputs, rest = arrays[:several], iter(arrays[several:])
            query_mask, value_mask = (None if mask is None else next(rest) for mask in masks)
            scores = self.scores(inputs[0], inputs[-1])
            if value_mask is not None:
                scores = np.where(value_mask[..., np.newaxis, :], scores, scores - _MASKED_LESS)
            if causal:
                # A step that is hidden twice is no lower than others.
                hidden = ~_causal(scores)
                hidden = hidden if value_mask is None else hidden & value_mask[..., np.newaxis, :]
                scores = np.where(hidden, scores - _MASKED_LESS, scores)
            weights = activations.softmax(scores)
            output = weights @ inputs[1]
            if query_mask is not None:
                output = np.where(query_mask[..., np.newaxis], output, 0)
            return (output, weights)[: 2 if return_attention_scores else 1]

        shape = self.compute_output_shape([one.shape for one in x])
        outputs = [builder.value(shape, query.mask)]
        if return_attention_scores:
            outputs.append(builder.value((*query.shape[:-1], value.shape[-2])))
        sources = [one.buffer for one in x] + [mask for mask in masks if mask is not None]
        targets = tuple(output.buffer for output in outputs)
        builder.add(plan.ApplySeveral(tuple(sources), targets, self.compute_dtype, compute))
        return outputs if return_attention_scores else outputs[0]

    def why_across_time(self, x: Sequence[plan.StreamValue]) -> str | None:
        known = all(value.when == "start" for value in x[1:])
        return None if known and not self.causal else "it attends to other timesteps"

    def lower_stream(
        self,
        builder: plan.StreamBuilder,
        x: list[plan.Value],
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        if use_causal_mask:
            raise NotStreamableError(
                f"layer {self.name!r}: use_causal_mask counts timesteps, so it cannot run in a stream"
            )
        return self.lower(builder, x, return_attention_scores)

    def scores(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Return how well each step of the key answers each of the query, (batch, query steps, key steps)."""
        scale = self._weights.get("scale")
        if self.score_mode == "dot":
            scores = query @ np.swapaxes(key, -1, -2)
            return scores if scale is None else scores * scale
        sums = query[..., :, np.newaxis, :] + key[..., np.newaxis, :, :]
        sums = sums if scale is None else sums * scale
        return self._weights["concat_score_weight"] * np.tanh(sums).sum(axis=-1)


class AdditiveAttention(Attention):
    """Additive attention (Bahdanau et al., 2015): the scores are sums of scale * tanh(query + key).

    Called as `Attention`.

    Parameters
    ----------
    use_scale : bool
        Multiply the features by a weight each.
    dropout : float
    **kwargs
        `Attention`'s arguments but `score_mode`.

    Notes
    -----
    Weights: scale (features,) if `use_scale`.
    """

    arguments = ("use_scale", "dropout", "seed")

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    _adds_features = True

    def build(self, input_shape: Nested) -> None:
        if self.use_scale:
            self.add_weight((input_shape[0][-1],), "glorot_uniform", name="scale")
        self.built = True

    def scores(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        features = np.tanh(query[..., :, np.newaxis, :] + key[..., np.newaxis, :, :])
        if not self.use_scale:
            return features.sum(axis=-1)
        return features @ np.broadcast_to(self._weights["scale"], features.shape[-1:])


def _refuse_dropout(layer: Layer, rate: float, training: bool) -> None:
    if training and rate:
        raise ValueError(
            f"layer {layer.name!r}: fastrnn runs inference only, so training=True cannot drop scores"
        )


class MultiHeadAttention(Layer):
    """Attention of several heads, each with projections of its own (Vaswani et al., 2017).

    Parameters
    ----------
    num_heads, key_dim : int
        Heads, and the size of query and key in each.
    value_dim : int, optional
        Size of the value in each head; `key_dim` by default.
    dropout : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    use_bias : bool
    output_shape : int or tuple of int, optional
        The output's sizes after the steps; the query's features by default.
    attention_axes : int or tuple of int, optional
        The axes of steps; by default all between the batch and the features.
    sliding_window : int, optional
        Let a step look only at those less than this far away.
    flash_attention : bool, optional
        Has no effect.
    kernel_initializer, bias_initializer : str, dict or callable
    kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint, seed : optional
        Kept for the config.
    use_gate : bool
        Multiply the heads' outputs by the sigmoid of one more projection of the query.
    reads_masks : bool
        Whether the masks that the inputs carry count, and the output carries the query's. This option and the next two
        are False, and the last is True, for files of versions that did otherwise, and not in the config.
    takes_masks : bool
        Whether the layer takes their masks from the tensors that it is called on, so that the layers that a model calls
        on the same tensors later see none.
    zeroes_masked_rows : bool
        Whether a step of the query that may look at nothing gets zeros, and not the mean of the values, where the
        weights are computed on their own: with dropout, scores that are returned, or further axes. Without zeros its
        scores are lowered by a number in which those of float32 drown, and those of float64 do not.
    lowers_scores : bool
        Whether scores are lowered so where the weights are not computed on their own, too.

    Notes
    -----
    Weights, each with its bias: query_dense (features, num_heads, key_dim), key_dense alike, gate_dense and
    value_dense (features, num_heads, value_dim), output_dense (num_heads, value_dim, *output_shape).
    """

    takes_several = True
    call_arguments = (
        "query",
        "value",
        "key",
        "query_mask",
        "value_mask",
        "key_mask",
        "attention_mask",
        "return_attention_scores",
        "training",
        "use_causal_mask",
    )
    arguments = (
        "num_heads",
        "key_dim",
        "value_dim",
        "dropout",
        "use_bias",
        "use_gate",
        "output_shape",
        "attention_axes",
        "sliding_window",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
        "seed",
    )

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        use_gate: bool = False,
        seed: object = None,
        *,
        reads_masks: bool = True,
        takes_masks: bool = True,
        zeroes_masked_rows: bool = True,
        lowers_scores: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.reads_masks, self.takes_masks = reads_masks, takes_masks
        self.zeroes_masked_rows, self.lowers_scores = zeroes_masked_rows, lowers_scores
        self.supports_masking = reads_masks
        what = f"layer {self.name!r}"
        self.num_heads = positive_integer(num_heads, f"{what}: num_heads")
        self.key_dim = positive_integer(key_dim, f"{what}: key_dim")
        self.value_dim = positive_integer(value_dim or key_dim, f"{what}: value_dim")
        self.dropout, self.use_bias, self.use_gate, self.seed = dropout, use_bias, use_gate, seed
        self.output_shape = None if output_shape is None else _as_tuple(output_shape)
        self.attention_axes = None if attention_axes is None else _as_tuple(attention_axes)
        self.sliding_window = (
            None
            if sliding_window is None
            else positive_integer(sliding_window, f"{what}: sliding_window")
        )
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer, self.bias_regularizer = kernel_regularizer, bias_regularizer
        self.kernel_constraint, self.bias_constraint = kernel_constraint, bias_constraint
        self._projections: dict[str, EinsumDense] = {}

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [(f"{name}_dense", layer) for name, layer in self._projections.items()]

    def _refuse_training(self, training: bool) -> None:
        _refuse_dropout(self, self.dropout, training)

    # Three shapes, where other layers have one.

    def build(self, input_shape: Nested) -> None:
        """Create the weights for a list of the shapes of query, value and, if it is not the value, key."""
        self._check_inputs(input_shape)
        query, value, key = (tuple(one) for one in (*input_shape[:2], input_shape[-1]))
        if self.attention_axes is None:
            self.attention_axes = tuple(range(1, len(query) - 1))
        self.attention_axes = tuple(axis % len(query) for axis in self.attention_axes)
        self._project("query", query, (self.num_heads, self.key_dim))
        self._project("key", key, (self.num_heads, self.key_dim))
        if self.use_gate:
            self._project("gate", query, (self.num_heads, self.value_dim), activation="sigmoid")
        self._project("value", value, (self.num_heads, self.value_dim))
        heads = (*query[:-1], self.num_heads, self.value_dim)
        self._project("output", heads, self.output_shape or query[-1:], inputs=2)
        super().build(query)

    def _project(
        self, name: str, shape: Shape, sizes: Shape, inputs: int = 1, **options: Any
    ) -> None:
        """Make the projection of the last `inputs` axes of something of that shape to `sizes`."""
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        kept = "".join(next(letters) for _ in shape[:-inputs])
        taken = "".join(next(letters) for _ in range(inputs))
        made = "".join(next(letters) for _ in sizes)
        layer = EinsumDense(
            f"{kept}{taken},{taken}{made}->{kept}{made}",
            output_shape=(*[None] * (len(kept) - 1), *sizes),
            bias_axes=made if self.use_bias else None,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            name="attention_output" if name == "output" else name,
            dtype=self.dtype_policy,
            **options,
        )
        layer.build(shape)
        layer._users.append(self)
        self._projections[name] = layer

    def _unbuild(self) -> None:
        super()._unbuild()
        self._projections = {}

    def _check_inputs(self, shape: Nested) -> None:
        shapes = shape if isinstance(shape, (list, tuple)) else []
        if len(shapes) not in (2, 3) or not all(
            isinstance(one, (list, tuple)) and len(one) >= 3 for one in shapes
        ):
            raise ValueError(
                f"layer {self.name!r}: expected query and value (batch, steps, features); got {shape}"
            )
        value, key = shapes[1], shapes[-1]
        if not fits(value[1:-1], key[1:-1]):
            raise ValueError(
                f"layer {self.name!r}: expected a value and a key of as many steps; got the shapes {shapes}"
            )
        names = ("query", "value", "key")
        for name, one in zip(names, (*shapes[:2], key), strict=True):
            known = self._projections.get(name)
            if known is not None and not fits(one[-1:], known.kernel.shape[:1]):
                raise ValueError(
                    f"layer {self.name!r}: expected {known.kernel.shape[0]} features of the {name}; "
                    f"got shape {tuple(one)}"
                )

    def compute_output_shape(
        self, query_shape: Nested, value_shape: Shape | None = None, key_shape: Shape | None = None
    ) -> Shape:
        """Return the output's shape, with the batch, for the inputs'."""
        sizes = query_shape[-1:] if self.output_shape is None else self.output_shape
        return (*query_shape[:-1], *sizes)

    def __call__(
        self,
        query: ArrayLike,
        value: ArrayLike,
        key: ArrayLike | None = None,
        query_mask: ArrayLike | None = None,
        value_mask: ArrayLike | None = None,
        key_mask: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        """Compute the layer.

        Parameters
        ----------
        query : array-like, shape (batch, query steps, features)
        value : array-like, shape (batch, steps, features)
        key : array-like, shape (batch, steps, features), optional
            The value by default.
        query_mask, value_mask, key_mask : array-like of bool, shape (batch, steps), optional
        attention_mask : array-like of bool, shape (batch, query steps, steps), optional
            Which steps each step of the query may look at; axes may be left out or of size 1.
        return_attention_scores : bool
            Return the weights of the values, (batch, heads, query steps, steps), too.
        training : bool
        use_causal_mask : bool
            Let no step of the query look at later steps.

        Returns
        -------
        ndarray, or tuple of two ndarray
        """
        tensors = {"value": value, "key": key}
        masks = {
            "query_mask": query_mask,
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
        }
        flags = {
            "return_attention_scores": return_attention_scores,
            "training": training,
            "use_causal_mask": use_causal_mask,
        }
        return self._call((query,), {**tensors, **masks, **flags})

    def _checked(self, given: dict[str, Nested]) -> dict[str, Nested]:
        what, first = f"layer {self.name!r}", self.call_arguments[0]
        names = [name for name in (first, "value", "key") if given.get(name) is not None]
        arrays = {name: to_numeric(given[name], what) for name in names}
        self._check_inputs([array.shape for array in arrays.values()])
        checked = {**given, **arrays}
        for name, mask in ((first, "query_mask"), ("value", "value_mask"), ("key", "key_mask")):
            if mask in checked and name not in arrays:
                del checked[mask]
            elif mask in checked:
                checked[mask] = to_mask(checked[mask], arrays[name].shape[:-1], what)
        if "attention_mask" in given:
            attention_mask = to_numeric(given["attention_mask"], what)
            checked["attention_mask"] = np.asarray(attention_mask, np.bool_)
        return checked

    def _build_for(self, arguments: dict[str, Nested]) -> None:
        if not self.built:
            names = (self.call_arguments[0], "value", "key")
            self.build([arguments[name].shape for name in names if name in arguments])

    def lower_call(
        self, builder: plan.Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write the steps of a call: build the layer for all its inputs, then lower it."""
        given = {**dict(zip(self.call_arguments, args, strict=False)), **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        if self.takes_masks:
            given.pop("query_mask", None)  # the tensor's own goes before it
        inputs = [given[name] for name in ("query", "value", "key") if name in given]
        if len(inputs) < 2:
            raise ValueError(f"layer {self.name!r}: expected a query and a value")
        shapes = [one.shape for one in inputs]
        self._check_inputs(shapes)
        if not self.built:
            self.build(shapes)
        mask = given.get("attention_mask")
        if isinstance(mask, np.ndarray):  # a constant, whose axes may be left out from the front
            missing = 1 + 2 * len(self.attention_axes or ()) - mask.ndim
            given["attention_mask"] = mask[(np.newaxis,) * missing]
        return super().lower_call(builder, [], given)

    def lower(  # type: ignore[override]
        self,
        builder: plan.Builder,
        query: plan.Value,
        value: plan.Value,
        key: plan.Value | None = None,
        attention_mask: plan.Value | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        inputs = [query, value, value if key is None else key]
        masks = [query.mask, value.mask, None if key is None else key.mask]
        if not self.reads_masks:
            masks = [None] * 3
        if self.takes_masks:
            builder.masks_taken.update(one.buffer for one in inputs)
        if attention_mask is not None:
            builder.masks.add(attention_mask.buffer)
            masks.append(attention_mask.buffer)
        known = [mask for mask in masks if mask is not None]
        # Where Keras needs the scores it hides steps that a mask leaves nothing of, elsewhere it looks at all of them.
        needs_scores = return_attention_scores or self.dropout > 0 or len(query.shape) != 3
        hide_all = needs_scores and self.zeroes_masked_rows
        lowers = (needs_scores or self.lowers_scores) and not hide_all

        def compute(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
            rest = iter(arrays[3:])
            given = [None if mask is None else next(rest) for mask in masks]
            query, value, key = (
                self._projections[name].compute(array)
                for name, array in zip(("query", "value", "key"), arrays, strict=False)
            )
            output, weights = self._attend(
                query, value, key, given, use_causal_mask, hide_all, lowers
            )
            if self.use_gate:
                output = output * self._projections["gate"].compute(arrays[0])
            output = self._projections["output"].compute(output)
            return (output, weights)[: 2 if return_attention_scores else 1]

        outputs = [builder.value(self.compute_output_shape(query.shape), query.mask)]
        if return_attention_scores:
            axes, others = self._axes_of(query.shape)
            steps = [one.shape[axis] for one in (query, value) for axis in axes]
            shape = (
                query.shape[0],
                *(query.shape[axis] for axis in others),
                self.num_heads,
                *steps,
            )
            outputs.append(builder.value(shape))
        sources = tuple([one.buffer for one in inputs] + known)
        targets = tuple(output.buffer for output in outputs)
        builder.add(plan.ApplySeveral(sources, targets, self.compute_dtype, compute))
        return outputs if return_attention_scores else outputs[0]

    def _axes_of(self, shape: Shape) -> tuple[list[int], list[int]]:
        """The axes of the steps, and those between the batch and the features that are not."""
        axes = list(self.attention_axes or ())
        return axes, [axis for axis in range(1, len(shape) - 1) if axis not in axes]

    def _attend(
        self,
        query: np.ndarray,
        value: np.ndarray,
        key: np.ndarray,
        masks: list[np.ndarray | None],
        use_causal_mask: bool,
        hide_all: bool,
        lowers: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the heads' outputs, of the query's axes, and their weights; the inputs are projected."""
        axes, others = self._axes_of(query.shape[:-1])
        heads, size = query.ndim - 2, query.ndim - 1
        order = [0, *others, heads, *axes, size]

        def rows(x: np.ndarray) -> np.ndarray:
            """x as (batch, *others, heads, steps, size)."""
            x = x.transpose(order)
            return x.reshape(*x.shape[: len(others) + 2], -1, x.shape[-1])

        scores = rows(query) * query.dtype.type(self.key_dim**-0.5) @ np.swapaxes(rows(key), -1, -2)
        sizes = [*(query.shape[axis] for axis in axes), *(value.shape[axis] for axis in axes)]
        allowed = self._allowed(masks, query.shape[1], value.shape[1], use_causal_mask)
        if allowed is not None:
            lead = scores.shape[:-2]
            missing = len(lead) + len(sizes) - allowed.ndim
            before = allowed.shape[: max(allowed.ndim - len(sizes), 0)]
            after = allowed.shape[len(before) :]
            allowed = allowed.reshape(*before, *[1] * missing, *after)
            allowed = np.broadcast_to(allowed, (*lead, *sizes)).reshape(scores.shape)
            if lowers:
                scores = np.where(allowed, scores, scores - scores.dtype.type(_MASKED_LESS))
            else:
                least = -_MASKED_LESS if hide_all else -0.7 * np.finfo(scores.dtype).max
                scores = np.where(allowed, scores, scores.dtype.type(least))
        weights = activations.softmax(scores)
        if allowed is not None and hide_all:
            weights = np.where(allowed, weights, 0)
        sums = weights @ rows(value)
        spread = sums.reshape(*sums.shape[:-2], *sizes[: len(axes)], sums.shape[-1])
        output = spread.transpose(np.argsort(order))
        return output, weights.reshape(*weights.shape[:-2], *sizes)

    def _allowed(
        self, masks: list[np.ndarray | None], steps: int, value_steps: int, use_causal_mask: bool
    ) -> np.ndarray | None:
        """Where steps of the query may look, of axes that broadcast to (batch, query steps, steps), or None."""
        query_mask, value_mask, key_mask, *attention_masks = masks
        found = [mask for mask in attention_masks if mask is not None]
        if query_mask is not None:
            found.append(query_mask[..., np.newaxis])
        found += [mask[..., np.newaxis, :] for mask in (value_mask, key_mask) if mask is not None]
        if use_causal_mask:
            found.append(np.tri(steps, value_steps, dtype=np.bool_)[np.newaxis])
        if self.sliding_window is not None:
            apart = np.abs(np.arange(steps)[:, np.newaxis] - np.arange(value_steps))
            found.append((apart < self.sliding_window)[np.newaxis])
        if not found:
            return None
        allowed = found[0]
        for mask in found[1:]:
            allowed = allowed & mask
        return allowed


def _as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)
