"""The config reader: what every Keras version wrote, as one spec."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving import files
from fastrnn.saving.config import (
    constructor_options,
    parse_json,
    parse_version,
    read_layer,
    read_model,
    refs_in,
    snake_case,
)
from fastrnn.saving.eras import IGNORED
from fastrnn.saving.spec import LayerSpec, ModelSpec, TensorRef

PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "models"

KERAS_1, KERAS_2_1, KERAS_2_2, KERAS_2, KERAS_3 = (
    (1, 2, 2),
    (2, 1, 6),
    (2, 2, 4),
    (2, 15, 0),
    (3, 15, 1),
)


class EveryOption:
    """Options of layers of a later day: all that are not known to be dropped."""

    def __init__(self, *also):
        self.also = also

    def __contains__(self, key):
        return key in self.also or key not in IGNORED


class EveryLayer:
    """Any class with any option, for what can be read before it can be built."""

    def __contains__(self, class_name):
        return class_name not in ("Lambda", "__lambda__")

    def __getitem__(self, class_name):
        return {
            "InputLayer": EveryOption("batch_shape"),
            "Embedding": EveryOption("input_dim"),
        }.get(class_name, EveryOption())


def read(config, version=KERAS_3, **kwargs):
    return read_layer(config, version, EveryLayer(), **kwargs)


def layer(class_name, version=KERAS_3, **config):
    spec = read(described(class_name, **config), version)
    assert spec.config.pop("trainable")
    return spec


def described(class_name, name="one", **config):
    return {"class_name": class_name, "config": {"name": name, "trainable": True, **config}}


def keras_tensor(name, node=0, tensor=0):
    history = {"shape": [None, 3], "dtype": "float32", "keras_history": [name, node, tensor]}
    return {"class_name": "__keras_tensor__", "config": history}


def input_layer(name, shape=(None, 5, 3)):
    config = {"name": name, "batch_shape": list(shape), "dtype": "float32"}
    return {"class_name": "InputLayer", "name": name, "config": config, "inbound_nodes": []}


def call(class_name, name, *nodes, **config):
    config = {"name": name, "trainable": True, **config}
    return {"class_name": class_name, "name": name, "config": config, "inbound_nodes": [*nodes]}


def functional(*layers, inputs=("x", 0, 0), outputs=("y", 0, 0), name="graph"):
    def listed(value):
        return list(value) if isinstance(value, tuple) else value

    config = {
        "name": name,
        "layers": list(layers),
        "input_layers": listed(inputs),
        "output_layers": listed(outputs),
    }
    return {"class_name": "Functional", "name": name, "config": config}


def node(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


# Names and values of the eras


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.15.1", (3, 15, 1)),
        ("2.2.4-tf", (2, 3, 2)),
        ("2.3.0-tf", (2, 3, 3)),
        ("3.0.0.dev2023", (3, 0, 0)),
        (None, (1,)),
    ],
)
def test_versions(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "tf", 3, ["3"], "1" * 30])
def test_what_is_no_version(text):
    with pytest.raises(ModelFormatError, match="version"):
        parse_version(text)


@pytest.mark.parametrize("version", [KERAS_1, KERAS_2_1, KERAS_2])
@pytest.mark.parametrize("key", ["activation", "recurrent_activation"])
def test_hard_sigmoid_of_old_files_is_the_old_one(version, key):
    assert (
        layer("LSTM", version, units=2, **{key: "hard_sigmoid"}).config[key]
        == "hard_sigmoid_keras2"
    )


def test_hard_sigmoid_of_new_files_is_the_new_one():
    assert layer("Dense", units=2, activation="hard_sigmoid").config["activation"] == "hard_sigmoid"


def test_activation_layer_of_an_old_file():
    spec = layer("Activation", KERAS_2, activation="hard_sigmoid")
    assert spec.config["activation"] == "hard_sigmoid_keras2"


@pytest.mark.parametrize(
    ("version", "written", "meant"),
    [
        (KERAS_2_1, {}, False),
        (KERAS_2, {}, False),
        (KERAS_2, {"reset_after": True}, True),
        (KERAS_3, {"reset_after": False}, False),
    ],
)
def test_reset_after(version, written, meant):
    assert layer("GRU", version, units=2, **written).config["reset_after"] is meant


def test_reset_after_is_not_made_up_for_new_files():
    assert "reset_after" not in layer("GRU", units=2).config


def test_recurrent_activation_left_out_by_old_files():
    assert layer("LSTM", KERAS_2_2, units=2).config["recurrent_activation"] == "hard_sigmoid_keras2"
    assert "recurrent_activation" not in layer("LSTM", KERAS_2, units=2).config
    assert "recurrent_activation" not in layer("SimpleRNN", KERAS_2_2, units=2).config


def test_cudnn_layers():
    lstm = layer("CuDNNLSTM", KERAS_2_2, units=2, return_sequences=True)
    assert lstm.class_name == "LSTM"
    assert lstm.config["recurrent_activation"] == "sigmoid"
    gru = layer("CuDNNGRU", KERAS_2_2, units=2)
    assert (gru.class_name, gru.config["reset_after"]) == ("GRU", True)


def test_keras_1_recurrent_layer():
    spec = layer(
        "LSTM",
        KERAS_1,
        output_dim=4,
        init="glorot_uniform",
        inner_init="orthogonal",
        forget_bias_init="one",
        activation="tanh",
        inner_activation="hard_sigmoid",
        W_regularizer=None,
        U_regularizer=None,
        b_regularizer=None,
        dropout_W=0.1,
        dropout_U=0.2,
        consume_less="gpu",
        input_dim=64,
        input_length=None,
        return_sequences=True,
    )
    assert spec.config == {
        "name": "one",
        "units": 4,
        "kernel_initializer": "glorot_uniform",
        "recurrent_initializer": "orthogonal",
        "activation": "tanh",
        "recurrent_activation": "hard_sigmoid_keras2",
        "kernel_regularizer": None,
        "recurrent_regularizer": None,
        "bias_regularizer": None,
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "return_sequences": True,
        "mask_beside_states": True,
        "masked_output": "state",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            (
                "Convolution1D",
                {"nb_filter": 2, "filter_length": 3, "border_mode": "same", "bias": True},
            ),
            ("Conv1D", {"filters": 2, "kernel_size": 3, "padding": "same", "use_bias": True}),
        ),
        (
            ("Convolution2D", {"nb_filter": 2, "nb_row": 3, "nb_col": 4, "dim_ordering": "tf"}),
            ("Conv2D", {"filters": 2, "kernel_size": [3, 4], "data_format": "channels_last"}),
        ),
        (
            ("MaxPooling1D", {"pool_length": 2, "stride": 4, "border_mode": "valid"}),
            ("MaxPooling1D", {"pool_size": 2, "strides": 4, "padding": "valid"}),
        ),
        (
            ("Embedding", {"input_dim": 7, "output_dim": 3}),
            ("Embedding", {"input_dim": 7, "output_dim": 3}),
        ),
        (("Dropout", {"p": 0.5}), ("Dropout", {"rate": 0.5})),
        (
            ("Merge", {"mode": "concat", "concat_axis": 2}),
            ("Concatenate", {"axis": 2, "mask_rule": "all"}),
        ),
        (
            ("Merge", {"mode": "dot", "dot_axes": [1, 1]}),
            ("Dot", {"axes": [1, 1]}),
        ),
    ],
)
def test_keras_1_names(old, new):
    spec = layer(old[0], KERAS_1, **old[1])
    assert (spec.class_name, spec.config) == (new[0], {"name": "one", **new[1]})


def test_keras_1_time_distributed_dense():
    spec = layer("TimeDistributedDense", KERAS_1, output_dim=4, activation="hard_sigmoid")
    assert spec.class_name == "TimeDistributed"
    assert spec.config["layer"].config["units"] == 4
    assert spec.config["layer"].config["activation"] == "hard_sigmoid_keras2"


@pytest.mark.parametrize(
    ("class_name", "sizes"),
    [
        ("Convolution2D", {"nb_row": 2, "nb_col": 3}),
        ("ConvLSTM2D", {"nb_row": 2, "nb_col": 3}),
        ("Convolution3D", {"kernel_dim1": 2, "kernel_dim2": 3, "kernel_dim3": 4}),
    ],
)
def test_keras_1_kernel_sizes(class_name, sizes):
    spec = layer(class_name, KERAS_1, nb_filter=5, **sizes)
    assert spec.config["kernel_size"] == list(sizes.values())
    assert not set(sizes) & set(spec.config)


def test_dropout_of_an_embedding_of_keras_1_is_left_out():
    assert "dropout" not in layer("Embedding", KERAS_1, output_dim=3, dropout=0.2).config


def test_kernel_that_separable_layers_of_keras_2_do_not_have():
    options = {"kernel_size": [3], "kernel_initializer": "zeros", "kernel_constraint": None}
    for name in ("SeparableConv1D", "DepthwiseConv1D"):
        assert layer(name, KERAS_2, **options).config == {"name": "one", "kernel_size": [3]}


@pytest.mark.parametrize(
    ("version", "option"), [((2, 1, 6), "reverse_state_order"), ((2, 2, 4), None)]
)
def test_states_of_stacks_that_came_in_reverse(version, option):
    stack = {"class_name": "StackedRNNCells", "config": {"cells": [described("GRUCell", units=2)]}}
    rnn = described("RNN", cell=stack, return_state=True)
    if option is None:
        assert read(rnn, version).config["return_state"]
        return
    with pytest.raises(UnsupportedLayerError, match=option):
        read(rnn, version)
    assert read(described("RNN", cell=stack), version)


def test_keras_2_names():
    assert layer("LeakyReLU", KERAS_2, alpha=0.25).config["negative_slope"] == 0.25
    assert layer("BatchNormalization", KERAS_2, axis=[3]).config["axis"] == 3
    assert layer("InputLayer", KERAS_2, batch_input_shape=[None, 3]).config["batch_shape"] == (
        None,
        3,
    )


def test_options_of_old_files_that_mean_nothing_are_dropped():
    spec = layer(
        "LSTM", KERAS_2, units=2, implementation=2, time_major=False, batch_input_shape=[None, 1, 1]
    )
    assert set(spec.config) == {"name", "units", "mask_beside_states", "kept_states_first"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("time_major", True), ("ragged", True), ("quantization_config", {"mode": "int8"})],
)
def test_options_that_would_change_the_result_are_refused(key, value):
    with pytest.raises(UnsupportedLayerError, match=f"LSTM 'one'.*{key}"):
        layer("LSTM", KERAS_2, units=2, **{key: value})


def test_unknown_option_is_refused():
    options = {"Dense": {"units", "trainable", "name"}}
    with pytest.raises(UnsupportedLayerError, match=r"Dense 'd'.*'surprise'"):
        read_layer(described("Dense", "d", surprise=1), KERAS_3, options)


def test_constructor_options_follow_the_bases():
    class Base:
        def __init__(self, *, name=None, dtype=None):
            pass

    class Layer(Base):
        def __init__(self, units, activation=None, **kwargs):
            super().__init__(**kwargs)

    class Closed(Layer):
        def __init__(self, size):
            super().__init__(size)

    assert constructor_options(Layer) == {"units", "activation", "name", "dtype"}
    assert constructor_options(Closed) == {"size"}


# Values


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("float64", "float64"),
        (
            {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}},
            "mixed_float16",
        ),
        ({"class_name": "Policy", "config": {"name": "float32", "loss_scale": None}}, "float32"),
    ],
)
def test_dtype_policies(written, name):
    assert layer("Dense", units=2, dtype=written).config["dtype"] == name


def test_dtypes_of_old_files():
    assert layer("Embedding", KERAS_2_1, dtype="int32").config["dtype"] is None
    policy = {"class_name": "Policy", "config": {"name": "infer"}}
    assert layer("Dense", KERAS_2, units=2, dtype=policy).config["dtype"] is None


@pytest.mark.parametrize("dtype", ["int8", "gptq/4/128_from_float32", "complex64"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(UnsupportedLayerError, match=r"Dense 'one'.*dtype"):
        layer("Dense", units=2, dtype=dtype)


@pytest.mark.parametrize("dtype", [5, ["float32"], {"config": {"name": 5}}])
def test_what_is_no_dtype(dtype):
    with pytest.raises(ModelFormatError, match=r"Dense 'one'.*dtype"):
        layer("Dense", units=2, dtype=dtype)


@pytest.mark.parametrize(
    "units",
    [0, -1, 2.5, True, "7", 2**31, 10**30, None.__class__, [1, 0]],
    ids=lambda value: repr(value),
)
def test_counts_are_positive_whole_numbers(units):
    with pytest.raises(ModelFormatError, match=r"Dense 'one'.*units"):
        layer("Dense", units=units)


def test_whole_floats_are_counts():
    assert layer("Dense", units=7.0).config["units"] == 7
    assert layer("Conv1D", kernel_size={"class_name": "__tuple__", "items": [3]}).config[
        "kernel_size"
    ] == [3]


@pytest.mark.parametrize("flag", ["return_sequences", "stateful", "use_bias", "reset_after"])
def test_flags_are_true_or_false(flag):
    with pytest.raises(ModelFormatError, match=f"{flag} must be true or false"):
        layer("GRU", units=2, **{flag: "yes"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite_but_for_mask_values(value):
    with pytest.raises(ModelFormatError, match="finite"):
        layer("LeakyReLU", negative_slope=value)
    assert layer("Masking", mask_value=value).config["mask_value"] is value


def test_objects_that_keras_writes_as_values():
    spec = layer(
        "Anything",
        a={"class_name": "__tuple__", "items": [1, [2, None]]},
        b={"class_name": "__ellipsis__", "config": {}},
        c={"class_name": "__slice__", "config": {"start": None, "stop": -1, "step": 2}},
        d={"class_name": "TensorShape", "items": [None, 3]},
    )
    assert spec.config["a"] == (1, [2, None])
    assert spec.config["b"] is Ellipsis
    assert spec.config["c"] == slice(None, -1, 2)
    assert spec.config["d"] == (None, 3)


def test_constants():
    spec = layer(
        "Anything", a={"class_name": "__numpy__", "config": {"value": [1, 2], "dtype": "float32"}}
    )
    np.testing.assert_array_equal(spec.config["a"], np.array([1, 2], np.float32))
    for config in ({"value": ["a"], "dtype": "float32"}, {"value": [1], "dtype": "object"}, {}):
        with pytest.raises(ModelFormatError, match="constant"):
            layer("Anything", a={"class_name": "__tensor__", "config": config})


def test_activations():
    function = {
        "module": "builtins",
        "class_name": "function",
        "config": "tanh",
        "registered_name": "tanh",
    }
    assert layer("Dense", units=2, activation=function).config["activation"] == "tanh"
    assert layer("Dense", units=2, activation=None).config["activation"] is None
    slope = {"class_name": "LeakyReLU", "config": {"name": "leaky", "alpha": 0.25}}
    inside = layer("LSTM", KERAS_2, units=2, activation=slope).config["activation"]
    assert (inside.class_name, inside.config["negative_slope"]) == ("LeakyReLU", 0.25)
    with pytest.raises(UnsupportedLayerError, match=r"Dense 'one'.*nonsense"):
        layer("Dense", units=2, activation="nonsense")


def test_activation_of_the_callers_own():
    described = {"class_name": "Dense", "config": {"name": "d", "units": 2, "activation": "mine"}}
    assert read(described, custom_objects={"mine": abs}).config["activation"] is abs


def test_initializers_do_not_count():
    known = {
        "module": "keras.initializers",
        "class_name": "Orthogonal",
        "config": {"gain": 2.0, "seed": None},
    }
    own = {
        "module": "somebody",
        "class_name": "Magic",
        "config": {},
        "registered_name": "somebody>Magic",
    }
    spec = layer(
        "LSTM", units=2, recurrent_initializer=known, kernel_initializer=own, kernel_regularizer=own
    )
    assert spec.config["recurrent_initializer"] == known
    assert spec.config["kernel_initializer"] == "zeros"
    assert spec.config["kernel_regularizer"] == own


# Classes


@pytest.mark.parametrize("module", ["somebody.layers", "__main__", "keras_hub.layers", "os"])
def test_somebodys_own_class_of_a_known_name(module):
    with pytest.raises(UnsupportedLayerError, match=r"LSTM 'one'.*custom_objects"):
        read({"module": module, "class_name": "LSTM", "config": {"name": "one", "units": 2}})


@pytest.mark.parametrize(
    "module",
    [
        "keras.layers",
        "keras",
        "keras.src.layers.rnn.lstm",
        "tf_keras.layers",
        "tensorflow.keras.layers",
        None,
    ],
)
def test_keras_modules(module):
    assert (
        read({"module": module, "class_name": "LSTM", "config": {"name": "one", "units": 2}}).name
        == "one"
    )


def test_registered_name_of_another_class():
    described = {"class_name": "LSTM", "config": {"name": "one"}, "registered_name": "pack>LSTM"}
    with pytest.raises(UnsupportedLayerError, match="pack>LSTM"):
        read(described)


def test_class_of_the_callers_own():
    class Mine:
        pass

    described = {
        "module": "m",
        "class_name": "Mine",
        "registered_name": "pack>Mine",
        "config": {"size": [1, 2]},
    }
    for name in ("Mine", "pack>Mine"):
        spec = read(described, custom_objects={name: Mine})
        assert spec == LayerSpec("Mine", "mine", {"size": [1, 2]}, custom=Mine)


def test_class_that_derives_from_one_of_keras():
    """Its options are read as those of that one; what it adds is the caller's."""

    class LSTM:
        pass

    class Backwards(LSTM):
        pass

    options = {"LSTM": {"units", "name", "recurrent_activation", "kernel_initializer", "dtype"}}
    initializer = {"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg"}}
    config = {"name": "b", "units": 3, "time_major": False, "extra": [1], "dtype": "float32"}
    config |= {"kernel_initializer": initializer, "recurrent_activation": "hard_sigmoid"}
    described = {"class_name": "Backwards", "config": config}
    spec = read_layer(described, KERAS_2, options, {"Backwards": Backwards})
    assert spec.class_name == "Backwards"
    assert (spec.config["units"], spec.config["extra"]) == (3, [1])
    assert spec.config["recurrent_activation"] == "hard_sigmoid_keras2"
    assert "time_major" not in spec.config
    config["time_major"] = True
    with pytest.raises(UnsupportedLayerError, match="time_major"):
        read_layer(described, KERAS_2, options, {"Backwards": Backwards})


def test_dtype_and_initializers_of_a_class_of_the_callers_own():
    class Mine:
        pass

    initializer = {"module": "keras.initializers", "class_name": "Zeros", "config": {}}
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    config = {"name": "m", "dtype": policy, "kernel_initializer": initializer}
    spec = read({"class_name": "Mine", "config": config}, custom_objects={"Mine": Mine})
    assert spec.config["dtype"] == "float32"
    assert spec.config["kernel_initializer"]["class_name"] == "Zeros"


def test_layers_inside_layers():
    cells = [
        {"class_name": name, "config": {"name": name, "units": 2}}
        for name in ("LSTMCell", "GRUCell")
    ]
    stack = {"class_name": "StackedRNNCells", "config": {"name": "stack", "cells": cells}}
    spec = layer("RNN", KERAS_2, cell=stack)
    lstm, gru = spec.config["cell"].config["cells"]
    assert (lstm.class_name, gru.config["reset_after"]) == ("LSTMCell", False)


def test_unsupported_layer_is_named_with_where_it_stands():
    lambda_layer = described("Lambda", "f", function=["code", None, None])
    inner = {"class_name": "Sequential", "config": {"name": "in", "layers": [lambda_layer]}}
    outer = {"class_name": "Sequential", "config": {"name": "out", "layers": [inner]}}
    with pytest.raises(
        UnsupportedLayerError, match=r"Sequential 'out' > Sequential 'in' > Lambda 'f'.*never run"
    ):
        read(outer)


def test_names_of_classes():
    names = {
        "SimpleRNN": "simple_rnn",
        "ConvLSTM2D": "conv_lstm2d",
        "LSTM": "lstm",
        "TFOpLambda": "tf_op_lambda",
    }
    for class_name, name in names.items():
        assert snake_case(class_name) == name


# Sequential models


DENSE = described("Dense", "d", units=1)


def sequential(*layers, **config):
    return {"class_name": "Sequential", "config": {"name": "s", "layers": list(layers), **config}}


def test_sequential_with_an_input_layer():
    spec = read(sequential(input_layer("x"), DENSE))
    assert [one.name for one in spec.layers] == ["d"]
    assert (spec.batch_input_shape, spec.input_name, spec.input_dtype) == (
        (None, 5, 3),
        "x",
        "float32",
    )


@pytest.mark.parametrize(
    "described",
    [
        sequential(
            {
                "class_name": "Dense",
                "config": {**DENSE["config"], "batch_input_shape": [None, 5, 3]},
            }
        ),
        sequential(DENSE, build_input_shape=[None, 5, 3]),
        sequential({**DENSE, "build_config": {"input_shape": [None, 5, 3]}}),
        sequential({**DENSE, "build_config": {"shapes_dict": {"input_shape": [None, 5, 3]}}}),
        {**sequential(DENSE), "build_config": {"input_shape": [None, 5, 3]}},
        sequential(sequential(input_layer("x"), DENSE)),
        sequential(
            functional(input_layer("x"), call("Dense", "y", node(keras_tensor("x")), units=1))
        ),
        sequential(
            {
                "class_name": "Bidirectional",
                "config": {
                    "name": "b",
                    "layer": {
                        "class_name": "LSTM",
                        "config": {"name": "l", "batch_input_shape": [None, 5, 3]},
                    },
                },
            }
        ),
    ],
)
def test_sequential_input_shape_from_elsewhere(described):
    assert read(described).batch_input_shape == (None, 5, 3)


def test_sequential_without_a_shape():
    assert read(sequential(DENSE)).batch_input_shape is None


def test_sequential_of_keras_1_is_a_bare_list():
    spec = read({"class_name": "Sequential", "config": [DENSE]}, KERAS_2_1)
    assert (spec.kind, spec.name, len(spec.layers)) == ("sequential", "sequential", 1)


@pytest.mark.parametrize(
    "layers",
    [[DENSE, DENSE], [DENSE, input_layer("x")], [5], [{"class_name": "Dense"}], [{"config": {}}]],
)
def test_broken_sequential(layers):
    with pytest.raises(ModelFormatError, match="Sequential 's'"):
        read(sequential(*layers))


# Functional models


# Merged models of Keras 1


def merged(mode, *models, **options):
    config = {"name": "merge_1", "mode": mode, "layers": list(models), **options}
    return {"class_name": "Merge", "config": config}


def bare(*layers):
    return {"class_name": "Sequential", "config": list(layers)}


def dense(name, shape=None):
    shape = {} if shape is None else {"batch_input_shape": [None, *shape]}
    return described("Dense", name, output_dim=3, **shape)


def test_merged_models_are_a_graph():
    spec = read(
        bare(merged("sum", bare(dense("a", [4])), dense("b", [5])), dense("c")), version=KERAS_1
    )
    assert spec.kind == "functional"
    assert [one.name for one in spec.layers] == ["a_input", "a", "b_input", "b", "merge_1", "c"]
    assert [one.class_name for one in spec.layers][4] == "Add"
    assert spec.inputs == [TensorRef("a_input", 0, 0), TensorRef("b_input", 0, 0)]
    assert spec.outputs == TensorRef("c", 0, 0)
    assert spec.layers[0].config["batch_shape"] == (None, 4)
    assert spec.nodes[2].args == ([TensorRef("a", 0, 0), TensorRef("b", 0, 0)],)


def test_model_that_is_merged_twice_is_one():
    shared = bare(dense("shared", [4]), dense("more"))
    inner = bare(merged("sum", shared, bare(dense("own", [4]))))
    inner["config"][0]["config"]["name"] = "merge_2"
    spec = read(bare(merged("concat", inner, shared)), version=KERAS_1)
    assert [node.layer for node in spec.nodes] == ["shared", "more", "own", "merge_2", "merge_1"]
    assert spec.inputs == [TensorRef("shared_input", 0, 0), TensorRef("own_input", 0, 0)]


def test_model_of_several_inputs_as_the_first_layer():
    inner = bare(merged("sum", bare(dense("a", [4])), bare(dense("b", [4]))))
    spec = read(bare(inner, dense("c")), version=KERAS_1)
    assert [one.name for one in spec.layers] == ["a_input", "b_input", "sequential_1", "c"]
    assert len(spec.inputs) == 2


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([bare(dense("a", [4])), bare(dense("a", [5]))], "two layers have the name 'a_input'"),
        (
            [bare(dense("a", [4]), described("ELU", "b")), bare(dense("b", [3]))],
            "two layers have the name 'b'",
        ),
        ([bare(dense("a", [4])), bare(dense("b"))], "'b' is merged and its input's shape"),
        ([bare(dense("a", [4])), bare()], "an empty model is merged"),
        ([bare(dense("a", [4])), {"class_name": "Sequential"}], "expected layers as a list"),
        ([3], "expected a layer as an object"),
    ],
)
def test_broken_merged_models(models, message):
    with pytest.raises(ModelFormatError, match=message):
        read(bare(merged("sum", *models)), version=KERAS_1)


@pytest.mark.parametrize("mode", ["cos", "lambda x: x", 3])
def test_modes_of_merging_that_are_refused(mode):
    models = bare(dense("a", [4])), bare(dense("b", [4]))
    options = {name: EveryOption() for name in ("Dense", "InputLayer", "Add")}
    with pytest.raises(UnsupportedLayerError, match="Merge 'merge_1'"):
        read_layer(bare(merged(mode, *models)), KERAS_1, options)


def test_models_that_a_bare_list_leaves_without_names():
    spec = read(bare(bare(dense("a", [4])), bare(dense("b", [3])), dense("c")), version=KERAS_1)
    assert [one.name for one in spec.layers] == ["sequential_1", "sequential_2", "c"]


# Graphs


def test_graph_of_keras_3():
    spec = read(
        functional(
            input_layer("x"),
            call(
                "LSTM",
                "encoder",
                node(keras_tensor("x"), training=False, mask=None),
                units=2,
                return_state=True,
            ),
            call(
                "LSTM",
                "y",
                node(
                    keras_tensor("x"),
                    initial_state=[keras_tensor("encoder", 0, 1), keras_tensor("encoder", 0, 2)],
                ),
                units=2,
            ),
        )
    )
    assert isinstance(spec, ModelSpec)
    assert spec.inputs == TensorRef("x", 0, 0)
    assert spec.outputs == TensorRef("y", 0, 0)
    encoder, decoder = spec.nodes
    assert (encoder.layer, encoder.args, encoder.kwargs) == ("encoder", (TensorRef("x", 0, 0),), {})
    assert decoder.kwargs == {
        "initial_state": [TensorRef("encoder", 0, 1), TensorRef("encoder", 0, 2)]
    }


def test_arguments_of_recurrent_layers_by_position():
    graph = functional(
        input_layer("x"),
        input_layer("h", (None, 2)),
        input_layer("m", (None, 5)),
        call("GRU", "y", node(keras_tensor("x"), [keras_tensor("h")], keras_tensor("m")), units=2),
        inputs=[["x", 0, 0], ["h", 0, 0], ["m", 0, 0]],
    )
    (gru,) = read(graph).nodes
    assert gru.args == (TensorRef("x", 0, 0),)
    assert gru.kwargs == {"initial_state": [TensorRef("h", 0, 0)], "mask": TensorRef("m", 0, 0)}


def test_states_and_constants_among_the_inputs_of_keras_2():
    described = functional(
        input_layer("x"),
        input_layer("h", (None, 2)),
        input_layer("k", (None, 2)),
        call("RNN", "y", [["x", 0, 0, {}], ["h", 0, 0, {}], ["k", 0, 0, {}]], num_constants=1),
        inputs=[["x", 0, 0], ["h", 0, 0], ["k", 0, 0]],
        outputs=[["y", 0, 0]],
    )
    (rnn,) = read(described, KERAS_2).nodes
    assert rnn.args == (TensorRef("x", 0, 0),)
    assert rnn.kwargs == {
        "initial_state": [TensorRef("h", 0, 0)],
        "constants": [TensorRef("k", 0, 0)],
    }


def test_calls_of_keras_2_with_several_inputs_and_tensors_as_arguments():
    described = functional(
        input_layer("x"),
        call("Add", "sum", [["x", 0, 0, {}], ["x", 0, 0, {}]]),
        call("TFOpLambda", "plus", ["sum", 0, 0, {"y": 2.0, "name": None}]),
        call("MultiHeadAttention", "y", [["plus", 0, 0, {"value": ["x", 0, 0]}]]),
        outputs=[["y", 0, 0]],
    )
    add, plus, attention = read(described, KERAS_2).nodes
    assert add.args == ([TensorRef("x", 0, 0)] * 2,)
    assert (plus.args, plus.kwargs) == ((TensorRef("sum", 0, 0),), {"y": 2.0})
    assert attention.kwargs == {"value": TensorRef("x", 0, 0)}


def test_operations_are_told_from_layers_of_the_same_name():
    add = {"class_name": "Add", "name": "y", "config": {"name": "y"}}
    graph = [input_layer("x"), {**add, "inbound_nodes": [node(keras_tensor("x"), 1.0)]}]
    in_h5 = read(functional(*graph))
    assert in_h5.layers[1].class_name == "ops.Add"
    assert in_h5.nodes[0].args == (TensorRef("x", 0, 0), 1.0)
    graph[1] |= {"module": "keras.src.ops.numpy", "registered_name": "Add"}
    assert read(functional(*graph)) == in_h5
    layer_add = call("Add", "y", node([keras_tensor("x"), keras_tensor("x")]))
    assert read(functional(input_layer("x"), layer_add)).layers[1].class_name == "Add"


@pytest.mark.parametrize(
    ("version", "kind", "in_calls", "in_outputs"),
    [
        (KERAS_3, "Functional", 0, 1),
        (KERAS_3, "Sequential", 0, 0),
        (KERAS_2, "Functional", 1, 1),
        (KERAS_2, "Sequential", 1, 1),
        (KERAS_1, "Sequential", 1, 1),
    ],
)
def test_nodes_of_nested_models_count_from_0(version, kind, in_calls, in_outputs):
    if version == KERAS_3:
        calls = [node(keras_tensor("x")), node(keras_tensor("inner", in_calls))]
        last = node([keras_tensor("inner", in_calls), keras_tensor("inner", in_calls + 1)])
        inside = node(keras_tensor("x"))
    else:
        calls = [[["x", 0, 0, {}]], [["inner", in_calls, 0, {}]]]
        last = [["inner", in_calls, 0, {}], ["inner", in_calls + 1, 0, {}]]
        inside = [["x", 0, 0, {}]]
    inner = sequential(input_layer("x"), DENSE)
    if kind == "Functional":
        inner = functional(input_layer("x"), call("Dense", "y", inside, units=3))
    inner = {**inner, "name": "inner", "inbound_nodes": calls}
    inner["config"] = {**inner["config"], "name": "inner", "trainable": True}
    outputs = [["inner", in_outputs, 0], ["inner", in_outputs + 1, 0], ["y", 0, 0]]
    spec = read(
        functional(input_layer("x"), inner, call("Add", "y", last), outputs=outputs), version
    )
    assert spec.outputs == [
        TensorRef("inner", 0, 0),
        TensorRef("inner", 1, 0),
        TensorRef("y", 0, 0),
    ]
    assert spec.nodes[1].args == (TensorRef("inner", 0, 0),)
    assert spec.nodes[2].args == ([TensorRef("inner", 0, 0), TensorRef("inner", 1, 0)],)


def test_structures_of_inputs_and_outputs():
    graph = [input_layer("x"), call("Dense", "y", node(keras_tensor("x")), units=1)]
    x, y = TensorRef("x", 0, 0), TensorRef("y", 0, 0)
    assert read(functional(*graph, inputs=[["x", 0, 0]], outputs=[["y", 0, 0]])).outputs == y
    spec = read(
        functional(*graph, inputs={"a": ["x", 0, 0]}, outputs={"b": [["y", 0, 0], ["x", 0, 0]]})
    )
    assert (spec.inputs, spec.outputs) == ({"a": x}, {"b": [y, x]})


def test_dicts_of_tensors_are_in_the_order_of_their_keys():
    graph = [input_layer("x"), input_layer("w")]
    graph.append(call("Add", "y", node([keras_tensor("x"), keras_tensor("w")])))
    inputs = {"b": ["x", 0, 0], "a": ["w", 0, 0]}
    assert list(read(functional(*graph, inputs=inputs)).inputs) == ["a", "b"]


def test_order_of_layers_is_not_the_order_of_calls():
    spec = read(
        functional(
            call("Dense", "y", node(keras_tensor("a")), units=1),
            call("Dense", "a", node(keras_tensor("x")), units=1),
            input_layer("x"),
        )
    )
    assert [one.layer for one in spec.nodes] == ["y", "a"]


X, Y = input_layer("x"), call("Dense", "y", node(keras_tensor("x")), units=1)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            functional(X, call("Dense", "y", node(keras_tensor("z")), units=1)),
            "'z', which is no layer",
        ),
        (functional(X, call("Dense", "y", node(keras_tensor("x", 1)), units=1)), "call 1 of 'x'"),
        (functional(X, call("Dense", "y", node(keras_tensor("x", -1)), units=1)), "call -1 of 'x'"),
        (functional(X, call("Dense", "y", node(keras_tensor("x", 0, -1)), units=1)), "tensor -1"),
        (functional(X, call("Dense", "y", node(keras_tensor("y")), units=1)), "loop"),
        (
            functional(
                X,
                call("Add", "y", node([keras_tensor("x"), keras_tensor("z")])),
                call("Dense", "z", node(keras_tensor("y")), units=1),
            ),
            "loop",
        ),
        (functional(X, X, Y), "two layers"),
        (functional(X, Y, inputs=("y", 0, 0)), "not its input layers"),
        (functional(X, Y, inputs=[]), "not its input layers"),
        (functional(X, input_layer("z"), Y, inputs=("z", 0, 0)), "not its input layers"),
        (functional(X, call("Dense", "y", node(5), units=1)), "without a tensor"),
        (functional(X, call("GRU", "y", [[]], units=1)), "without a tensor"),
        (functional(X, Y, outputs=[]), "no outputs"),
        (functional(X, Y, outputs=("z", 0, 0)), "'z', which is no layer"),
        (functional(X, Y, outputs=("y", 1, 0)), "call 1 of 'y'"),
        (functional(X, Y, outputs=5), "output_layers"),
        (functional(X, {**Y, "name": "other"}), "calls itself 'y'"),
        (functional(X, {**Y, "inbound_nodes": 5}), "inbound_nodes"),
        (functional(X, {**Y, "inbound_nodes": [{"args": 5, "kwargs": {}}]}), "args"),
        (functional(X, {**Y, "inbound_nodes": [[["x", 0]]]}), "input tensor"),
        (functional(X, {**Y, "inbound_nodes": [5]}), "input tensor"),
        (functional(X, call("GRU", "y", node(*[keras_tensor("x")] * 5), units=1)), "5 positional"),
        ({"class_name": "Functional", "config": {"name": "graph"}}, "layers"),
        ({"class_name": "Functional", "config": 5}, "config"),
        ({"class_name": 5, "config": {}}, "class_name"),
    ],
)
def test_broken_graphs(graph, message):
    with pytest.raises(ModelFormatError, match=message):
        read(graph)


def test_a_layer_is_no_model():
    with pytest.raises(ModelFormatError, match="got the layer Dense 'd'"):
        read_model(DENSE, KERAS_3, EveryLayer())


# Published models, those included whose layers are not all supported


def published_models():
    return sorted(PUBLISHED.glob("*/model.*")) or [None]


@pytest.mark.parametrize("path", published_models(), ids=lambda path: path and path.parent.name)
def test_configs_of_published_models(path):
    if path is None:
        pytest.skip(f"the published models are not at {PUBLISHED}")
    expected = json.loads((PUBLISHED / "cases.json").read_text())
    case = next(case for case in expected if case["name"] == path.parent.name)
    with files.open_model(path) as stored:
        if case["kind"] == "refuse":
            with pytest.raises(UnsupportedLayerError, match="Lambda"):
                read_model(stored.config, stored.version, EveryLayer())
            return
        spec = read_model(stored.config, stored.version, EveryLayer())
    inputs = (
        [spec.input_name]
        if spec.kind == "sequential"
        else [ref.layer for ref in refs_in(spec.inputs)]
    )
    assert len(inputs) == case["n_in"]
    if case["input_names"] and spec.kind == "functional":
        assert inputs == case["input_names"]
    assert spec.kind == "functional" or spec.batch_input_shape is not None
    activations = [
        one.config.get("recurrent_activation") for one in spec.layers if isinstance(one, LayerSpec)
    ]
    assert stored.version >= (3,) or "hard_sigmoid" not in activations


def test_json_that_is_refused():
    for text in (
        '{"a": 1, "a": 2}',
        "[1]",
        "nonsense",
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
    ):
        with pytest.raises(ModelFormatError, match="the config"):
            parse_json(text, "the config")
