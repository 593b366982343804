"""What the versions of Keras wrote, and meant, differently, as tables.

Each `Era` puts the layer configs of files older than ``before`` in the words of the next one, so
that a file of Keras 1 passes through all of them and a file of Keras 3 through none.

Each `Meaning` is one thing that some versions computed in another way than the newest, written as
options of the layers here. `MEANINGS` is the only place that knows which version means what: layers
know their options and no versions.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastrnn._types import Config


@dataclass(frozen=True)
class Era:
    """The words of one generation of Keras.

    Attributes
    ----------
    before : tuple of int
        First version that no longer speaks so.
    defaults : mapping
        By the file's class name: options that the files leave out, with what that meant.
    classes : mapping
        Old class name to new one.
    keys : mapping
        Old option name to new one, for every class.
    class_keys : mapping
        By new class name: the same, and it goes before ``keys``.
    values : mapping
        By new option name: old string to new one.
    rewrites : mapping
        By new class name: what no table can say, as a function of the renamed options that returns
        class name and options.
    """

    before: tuple[int, ...]
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    class_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rewrites: "Mapping[str, Rewrite]" = field(default_factory=dict)

    def translate(self, class_name: str, config: Config) -> tuple[str, Config]:
        """Return class name and options as the next generation would have written them."""
        config = {**self.defaults.get(class_name, {}), **config}
        class_name = self.classes.get(class_name, class_name)
        names = {**self.keys, **self.class_keys.get(class_name, {})}
        config = {names.get(key, key): value for key, value in config.items()}
        for key, meanings in self.values.items():
            value = config.get(key)
            if isinstance(value, str):
                config[key] = meanings.get(value, value)
        rewrite = self.rewrites.get(class_name)
        return rewrite(config) if rewrite else (class_name, config)


def _without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


Rewrite = Callable[[Config], tuple[str, Config]]


@dataclass(frozen=True)
class Meaning:
    """What some versions of Keras meant by a layer, where the newest means something else.

    Attributes
    ----------
    what : str
        The difference, in a few words.
    layers : tuple of str or None
        The classes that it concerns, by their newest names; None for all.
    before : tuple of int
        First version that no longer means it.
    source : str
        The tag of Keras's repository and the file where it can be read.
    since : tuple of int
        First version that means it.
    options : mapping
        Options of the layer here that say so; what the file says goes before them.
    values : mapping
        By option name: what the file says to what it means.
    """

    what: str
    layers: tuple[str, ...] | None
    before: tuple[int, ...]
    source: str
    since: tuple[int, ...] = (1,)
    options: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def holds_for(self, version: tuple[int, ...]) -> bool:
        """Whether a version of Keras meant it."""
        return self.since <= version < self.before

    def explain(self, class_name: str, config: Config) -> Config:
        """Return the options of a layer with what they leave unsaid."""
        if self.layers is not None and class_name not in self.layers:
            return config
        config = {**self.options, **config}
        for option, meanings in self.values.items():
            value = config.get(option)
            if isinstance(value, str):
                config[option] = meanings.get(value, value)
        return config


def _kernel_size_of(class_name: str, *axes: str) -> Rewrite:
    def rewrite(config: Config) -> tuple[str, Config]:
        if not set(axes) <= set(config):
            return class_name, config
        kernel_size = [config[axis] for axis in axes]
        return class_name, {**_without(config, *axes), "kernel_size": kernel_size}

    return rewrite


def _embedding(config: Config) -> tuple[str, Config]:
    return "Embedding", _without(config, "dropout")


def _time_distributed_dense(config: Config) -> tuple[str, Config]:
    shared: Config = {key: config[key] for key in ("name", "trainable") if key in config}
    dense = {"class_name": "Dense", "config": config}
    return "TimeDistributed", {**shared, "layer": dense}


_MERGE_CLASSES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
}


def _merge(config: Config) -> tuple[str, Config]:
    mode = config.get("mode")
    if mode not in _MERGE_CLASSES:
        return "Merge", config
    merged: Config = {key: config[key] for key in ("name", "trainable") if key in config}
    if mode == "concat":
        merged["axis"] = config.get("concat_axis", -1)
    elif mode == "dot":
        merged["axes"] = config.get("dot_axes", -1)
    return _MERGE_CLASSES[mode], merged


def _single_axis(config: Config) -> tuple[str, Config]:
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        config = {**config, "axis": axis[0]}
    return "BatchNormalization", config


_TENSORFLOW_FUNCTION = r"(?:compat\.v\d\.)?(?:(?:math|nn|linalg|__operators__)\.)?(\w+)"


def _tensorflow_operation(config: Config) -> tuple[str, Config]:
    function = str(config.get("function"))
    known = re.fullmatch(_TENSORFLOW_FUNCTION, function)
    name = {key: config[key] for key in ("name",) if key in config}
    return f"ops.tf.{known[1] if known else function}", name


def _without_one_kernel(class_name: str, config: Config) -> tuple[str, Config]:
    """Leave out the options of the one kernel that these layers do not have."""
    return class_name, {
        key: value
        for key, value in config.items()
        if not key.startswith("kernel_") or key == "kernel_size"
    }


def _other_direction(config: Config) -> tuple[str, Config]:
    """Write down the backward layer of a layer that itself goes backwards: it goes forward.

    Keras 3 has the backward layer go backwards in any case, and so refuses such a layer.
    """
    layer = config.get("layer")
    if config.get("backward_layer") or not isinstance(layer, dict):
        return "Bidirectional", config
    inner = layer.get("config")
    if not isinstance(inner, dict) or not inner.get("go_backwards"):
        return "Bidirectional", config
    other = {**inner, "name": f"backward_{inner.get('name')}", "go_backwards": False}
    return "Bidirectional", {**config, "backward_layer": {**layer, "config": other}}


def _stack_of_cells(config: Config) -> tuple[str, Config]:
    """Say that a stack's states came in the order of the last cell first."""
    cell = config.get("cell")
    stacked = isinstance(cell, dict) and cell.get("class_name") == "StackedRNNCells"
    return "RNN", {**config, "reverse_state_order": True} if stacked and config.get(
        "return_state"
    ) else config


_CONV_LSTM_CELLS = ("ConvLSTM1DCell", "ConvLSTM2DCell", "ConvLSTM3DCell")
_CUDNN = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}

KERAS_1 = Era(
    before=(2,),
    classes={
        "Convolution1D": "Conv1D",
        "Convolution2D": "Conv2D",
        "Convolution3D": "Conv3D",
        "AtrousConvolution1D": "Conv1D",
        "AtrousConvolution2D": "Conv2D",
    },
    keys={
        "output_dim": "units",
        "bias": "use_bias",
        "init": "kernel_initializer",
        "inner_init": "recurrent_initializer",
        "inner_activation": "recurrent_activation",
        "dropout_W": "dropout",
        "dropout_U": "recurrent_dropout",
        "consume_less": "implementation",
        "W_regularizer": "kernel_regularizer",
        "U_regularizer": "recurrent_regularizer",
        "b_regularizer": "bias_regularizer",
        "W_constraint": "kernel_constraint",
        "U_constraint": "recurrent_constraint",
        "b_constraint": "bias_constraint",
        "nb_filter": "filters",
        "filter_length": "kernel_size",
        "border_mode": "padding",
        "subsample": "strides",
        "subsample_length": "strides",
        "atrous_rate": "dilation_rate",
        "pool_length": "pool_size",
        "stride": "strides",
        "dim_ordering": "data_format",
        "p": "rate",
        "sigma": "stddev",
    },
    class_keys={
        "InputLayer": {"input_dtype": "dtype"},
        "Embedding": {
            "output_dim": "output_dim",
            "init": "embeddings_initializer",
            "W_regularizer": "embeddings_regularizer",
            "W_constraint": "embeddings_constraint",
        },
        "UpSampling1D": {"length": "size"},
        "PReLU": {"init": "alpha_initializer"},
        "BatchNormalization": {
            "beta_init": "beta_initializer",
            "gamma_init": "gamma_initializer",
        },
    },
    values={"data_format": {"tf": "channels_last", "th": "channels_first"}},
    rewrites={
        "Conv2D": _kernel_size_of("Conv2D", "nb_row", "nb_col"),
        "Conv3D": _kernel_size_of("Conv3D", "kernel_dim1", "kernel_dim2", "kernel_dim3"),
        "ConvLSTM2D": _kernel_size_of("ConvLSTM2D", "nb_row", "nb_col"),
        "Embedding": _embedding,
        "TimeDistributedDense": _time_distributed_dense,
        "Merge": _merge,
    },
)

BEFORE_KERAS_2_2_3 = Era(before=(2, 2, 3), rewrites={"RNN": _stack_of_cells})

KERAS_2 = Era(
    before=(3,),
    defaults={
        "CuDNNLSTM": _CUDNN,
        "CuDNNGRU": {**_CUDNN, "reset_after": True},
    },
    classes={
        "Model": "Functional",
        "CuDNNLSTM": "LSTM",
        "CuDNNGRU": "GRU",
        "UnifiedLSTM": "LSTM",
        "UnifiedGRU": "GRU",
        **dict.fromkeys(_CONV_LSTM_CELLS, "ConvLSTMCell"),
        "BatchNormalizationV1": "BatchNormalization",
        "BatchNormalizationV2": "BatchNormalization",
        "SyncBatchNormalization": "BatchNormalization",
        "ThresholdedReLU": "ReLU",
    },
    class_keys={
        "InputLayer": {"batch_input_shape": "batch_shape"},
        "LeakyReLU": {"alpha": "negative_slope"},
        "ReLU": {"theta": "threshold"},
    },
    rewrites={
        "BatchNormalization": _single_axis,
        "Bidirectional": _other_direction,
        "SeparableConv1D": partial(_without_one_kernel, "SeparableConv1D"),
        "DepthwiseConv1D": partial(_without_one_kernel, "DepthwiseConv1D"),
        "TFOpLambda": _tensorflow_operation,
        "SlicingOpLambda": _tensorflow_operation,
    },
)

ERAS = (KERAS_1, BEFORE_KERAS_2_2_3, KERAS_2)

TENSORFLOWS_OWN = (2, 3, 2)
"""The place of 2.2.4-tf, of TensorFlow 1.13 to 2.0, among the versions."""

SECOND_OF_TENSORFLOWS_OWN = (2, 3, 3)
"""The place of 2.3.0-tf, of TensorFlow 2.1 and 2.2."""

NEWEST_KERAS = (3, 15)
"""What a file means that does not tell which Keras 3 wrote it."""

_GATED = ("LSTM", "GRU", "LSTMCell", "GRUCell", "ConvLSTM2D", "ConvLSTMCell")
_OVER_TIME = (
    "SimpleRNN",
    "LSTM",
    "GRU",
    "RNN",
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
)
_MERGING = (
    "Add",
    "Subtract",
    "Multiply",
    "Average",
    "Maximum",
    "Minimum",
    "Concatenate",
)
_OLD_HARD_SIGMOID = {"hard_sigmoid": "hard_sigmoid_keras2"}

MEANINGS = (
    Meaning(
        what="a gated layer that names no recurrent activation has hard_sigmoid",
        layers=_GATED,
        before=(2, 3),
        options={"recurrent_activation": "hard_sigmoid"},
        source="2.2.4: keras/layers/recurrent.py",
    ),
    Meaning(
        what="hard_sigmoid is clip(0.2 x + 0.5, 0, 1)",
        layers=None,
        before=(3,),
        values={"activation": _OLD_HARD_SIGMOID, "recurrent_activation": _OLD_HARD_SIGMOID},
        source="v2.15.0: keras/activations.py, keras/backend.py",
    ),
    Meaning(
        what="a GRU that does not tell resets before the product",
        layers=("GRU", "GRUCell"),
        before=(3,),
        options={"reset_after": False},
        source="2.2.4: keras/layers/recurrent.py",
    ),
    Meaning(
        what="a merged step counts where it counts in all inputs that have a mask",
        layers=_MERGING,
        before=(3,),
        options={"mask_rule": "all"},
        source="v2.15.0: keras/layers/merging/base_merge.py, concatenate.py",
    ),
    Meaning(
        what="the mask that a sequence carries counts beside an initial state",
        layers=_OVER_TIME,
        before=(3,),
        options={"mask_beside_states": True},
        source="v2.15.0: keras/layers/rnn/base_rnn.py, bidirectional.py",
    ),
    Meaning(
        what="masked steps of a Bidirectional repeat the output before them, and are no zeros",
        layers=("Bidirectional",),
        before=TENSORFLOWS_OWN,
        options={"zeroes_masked_steps": False},
        source="2.3.1: keras/layers/wrappers.py",
    ),
    Meaning(
        what="a stateful Bidirectional starts each call anew",
        layers=("Bidirectional",),
        since=(2,),
        before=TENSORFLOWS_OWN,
        options={"keeps_states": False},
        source="2.3.1: keras/layers/wrappers.py",
    ),
    Meaning(
        what="a masked step puts out the first state, which before the first step that counts is the initial one",
        layers=("SimpleRNN", "LSTM", "GRU", "RNN"),
        before=(2, 3),
        options={"masked_output": "state"},
        source="2.1.6: keras/backend/tensorflow_backend.py, rnn",
    ),
    Meaning(
        what="a masked step of a stack puts out the first state of the first cell",
        layers=("RNN",),
        since=(2, 2, 3),
        before=(2, 3),
        values={"masked_output": {"state": "first state"}},
        source="2.2.4: keras/layers/recurrent.py, StackedRNNCells",
    ),
    Meaning(
        what="the layer in a TimeDistributed gets no mask",
        layers=("TimeDistributed",),
        before=(2, 2),
        options={"masks_steps": False},
        source="2.1.6: keras/layers/wrappers.py",
    ),
    Meaning(
        what="Softmax knows no mask",
        layers=("Softmax",),
        before=(2, 4),
        options={"reads_masks": False},
        source="2.3.1: keras/layers/advanced_activations.py",
    ),
    Meaning(
        what="a Softmax over nothing but masked numbers gives what it gives without the mask",
        layers=("Softmax",),
        before=(3, 10),
        options={"zeroes_masked_rows": False},
        source="v3.9.2: keras/src/layers/activations/softmax.py",
    ),
    Meaning(
        what="masked steps of a ConvLSTM repeat the output before them, whatever zero_output_for_mask says",
        layers=("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
        before=(3,),
        options={"zeroes_masked_steps": False},
        source="v2.15.0: keras/layers/rnn/base_conv_rnn.py",
    ),
    Meaning(
        what="a stateful layer starts from the states it kept, not from an initial state, unless they are all zeros",
        layers=_OVER_TIME,
        since=SECOND_OF_TENSORFLOWS_OWN,
        before=(3,),
        options={"kept_states_first": True},
        source="v2.15.0: keras/layers/rnn/base_rnn.py, _process_inputs",
    ),
    Meaning(
        what="Normalization and Rescaling drop the mask",
        layers=("Normalization", "Rescaling"),
        before=(3,),
        options={"carries_mask": False},
        source="v2.15.0: keras/layers/preprocessing/normalization.py, image_preprocessing.py",
    ),
    Meaning(
        what="a merging layer drops the masks of its inputs",
        layers=_MERGING,
        since=(3,),
        before=(3, 4),
        options={"mask_rule": "none"},
        source="v3.3.3: keras/src/layers/layer.py, previous_mask",
    ),
    Meaning(
        what="the output of an attention over a list carries no mask",
        layers=("Attention", "AdditiveAttention"),
        since=(3,),
        before=(3, 4),
        options={"carries_mask": False},
        source="v3.3.3: keras/src/layers/layer.py, previous_mask",
    ),
    Meaning(
        what="a layer called with mask= hands on the mask that its input carries, not the given one",
        layers=(*_OVER_TIME, "TimeDistributed"),
        since=(3,),
        before=(3, 11),
        options={"carries_given_mask": False},
        source="v3.10.0: keras/src/layers/layer.py, previous_mask",
    ),
    Meaning(
        what="MultiHeadAttention knows its attention_mask only, no masks that tensors carry",
        layers=("MultiHeadAttention",),
        before=(2, 10),
        options={"reads_masks": False},
        source="v2.9.0: keras/layers/attention/multi_head_attention.py",
    ),
    Meaning(
        what="MultiHeadAttention leaves the masks of its inputs to the layers after it",
        layers=("MultiHeadAttention",),
        before=(3, 8),
        options={"takes_masks": False},
        source="v3.7.0: keras/src/layers/attention/multi_head_attention.py",
    ),
    Meaning(
        what="MultiHeadAttention gives a step that may look at nothing the mean of the values",
        layers=("MultiHeadAttention",),
        before=(3, 10),
        options={"zeroes_masked_rows": False},
        source="v3.9.2: keras/src/layers/activations/softmax.py",
    ),
    Meaning(
        what="MultiHeadAttention lowers the scores of masked steps by 1e9, which in float64 leaves their order",
        layers=("MultiHeadAttention",),
        before=(3, 7),
        options={"lowers_scores": True},
        source="v3.6.0: keras/src/layers/attention/multi_head_attention.py",
    ),
)
"""In the order in which they are applied."""

ANYTHING = object()
"""Stands for every value in `IGNORED`."""

IGNORED: Mapping[str, Any] = {
    # how Keras gets to the numbers, or what holds for training or the file only
    "implementation": ANYTHING,
    "fused": ANYTHING,
    "synchronized": ANYTHING,
    "autocast": ANYTHING,
    "lora_rank": ANYTHING,
    "lora_alpha": ANYTHING,
    "forget_bias_init": ANYTHING,
    # the input's shape and type, which are read where they count: at the model's input
    "batch_input_shape": ANYTHING,
    "batch_shape": ANYTHING,
    "input_shape": ANYTHING,
    "query_shape": ANYTHING,
    "key_shape": ANYTHING,
    "value_shape": ANYTHING,
    "input_dim": ANYTHING,
    "input_length": ANYTHING,
    "input_dtype": ANYTHING,
    "num_constants": ANYTHING,
    # options that change the result, unless they are off
    "time_major": (False, None),
    "quantization_config": (None,),
    "sparse": (False, None),
    "ragged": (False, None),
    "optional": (False, None),
    "renorm": (False, None),
    "softmax_robust_masking": (False, None),
    "virtual_batch_size": (None,),
    "return_runtime": (False, None),
    "reverse_state_order": (False, None),
    "mode": (0,),
    "groups": (1,),
}
"""Options that may be left out where a layer does not know them, and the values that may."""
