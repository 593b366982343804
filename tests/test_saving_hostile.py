"""Files made to do harm, or merely broken: refused with a clear error, and nothing happens.

Every known attack on model files that applies to these formats is here once.
"""

import contextlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastrnn
from fastrnn import _trials
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving import archive as archive_module
from fastrnn.saving import config as config_module
from fastrnn.saving.heaps import check_heaps
from tests.costs import calls_of

FEATURES, UNITS = 2, 3
SHAPES = [(FEATURES, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,)]
KERNEL = "layers/lstm/cell/vars/0"


def lstm_config(**options):
    config = {"name": "lstm", "trainable": True, "dtype": "float32", "units": UNITS, **options}
    return {"module": "keras.layers", "class_name": "LSTM", "config": config}


def model_config(*layers, **config):
    shape = {"batch_shape": [None, 4, FEATURES], "dtype": "float32", "name": "x"}
    first = {"module": "keras.layers", "class_name": "InputLayer", "config": shape}
    config = {"name": "model", "layers": [first, *(layers or [lstm_config()])], **config}
    return {"module": "keras", "class_name": "Sequential", "config": config}


def write_weights(file):
    for i, shape in enumerate(SHAPES):
        file[f"layers/lstm/cell/vars/{i}"] = np.zeros(shape, np.float32)


def weights_bytes():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write_weights(file)
    return stream.getvalue()


def members(**changed):
    """The members of a good archive by name, with changes; None leaves a member out."""
    good = {
        "metadata.json": json.dumps({"keras_version": "3.15.1"}).encode(),
        "config.json": json.dumps(model_config()).encode(),
        "model.weights.h5": weights_bytes(),
    }
    good |= {name.replace("__", "."): content for name, content in changed.items()}
    return {name: content for name, content in good.items() if content is not None}


@pytest.fixture
def write_archive(tmp_path):
    def write(extra=(), **changed):
        path = tmp_path / "m.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in [*members(**changed).items(), *extra]:
                archive.writestr(name, content)
        return path

    return write


@pytest.fixture
def with_config(write_archive):
    def write(config):
        text = config if isinstance(config, str | bytes) else json.dumps(config)
        return write_archive(config__json=text)

    return write


@pytest.fixture
def with_weights(tmp_path):
    """Returns a function that changes a good weights file and loads it."""

    def load(change):
        path = tmp_path / "m.weights.h5"
        with h5py.File(path, "w") as file:
            write_weights(file)
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        architecture = tmp_path / "m.json"
        architecture.write_text(json.dumps(model_config()))
        return fastrnn.load_model(architecture, weights=path)

    return load


@pytest.fixture
def legacy(tmp_path):
    """Returns a function that changes a good whole-model .h5 file and loads it."""

    def load(change):
        path = tmp_path / "m.h5"
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = "3.15.1"
            file.attrs["model_config"] = json.dumps(model_config())
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = ["lstm"]
            layer = group.create_group("lstm")
            layer.attrs["weight_names"] = ["k", "r", "b"]
            for name, shape in zip("krb", SHAPES, strict=True):
                layer[name] = np.zeros(shape, np.float32)
            change(file, layer)
        return fastrnn.load_model(path)

    return load


def test_the_files_that_are_changed_here_are_good(write_archive, with_weights, legacy):
    x = np.ones((1, 4, FEATURES), np.float32)
    loaded = [
        fastrnn.load_model(write_archive()),
        with_weights(None),
        legacy(lambda file, layer: None),
    ]
    for model in loaded:
        assert model.predict(x).shape == (1, UNITS)


# Nothing is executed, imported or opened


@pytest.mark.slow
def test_loading_executes_imports_and_opens_nothing(tmp_path, write_archive):
    """An audit hook watches loads of files that ask for code; a load before it warms imports up."""
    bad = {
        "lambda": {
            "class_name": "Lambda",
            "config": {"name": "f", "function": ["gANjb3M=", None, None]},
        },
        "lambda3": {
            "class_name": "Lambda",
            "config": {
                "name": "f",
                "function": {"class_name": "__lambda__", "config": {"code": "4wEAAA=="}},
            },
        },
        "module": {
            "module": "antigravity",
            "class_name": "LSTM",
            "config": {"name": "l", "units": 1},
        },
        "function": lstm_config(
            activation={"module": "os", "class_name": "function", "config": "system"}
        ),
        "initializer": lstm_config(
            kernel_initializer={"module": "antigravity", "class_name": "X", "config": {}}
        ),
        "file": {
            "class_name": "StringLookup",
            "config": {"name": "s", "vocabulary": "/etc/passwd"},
        },
        "saved": {"class_name": "TFSMLayer", "config": {"name": "t", "filepath": "/etc"}},
        "torch": {
            "class_name": "TorchModuleWrapper",
            "config": {"name": "t", "module": "gANjb3M="},
        },
    }
    good = write_archive()
    paths = []
    for name, layer in bad.items():
        paths.append(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            for member, content in members(
                config__json=json.dumps(model_config(layer)).encode()
            ).items():
                archive.writestr(member, content)
    watch = textwrap.dedent(
        """
        import sys
        import fastrnn
        good, *paths = sys.argv[1:]
        fastrnn.load_model(good)
        seen = []
        HARMLESS = {"builtins.id", "object.__getattr__", "object.__setattr__", "sys._getframe"}

        def hook(event, arguments):
            if event == "open" and arguments[0] in paths:
                return
            if event not in HARMLESS:
                seen.append((event, str(arguments)[:100]))

        sys.addaudithook(hook)
        refused = 0
        for path in paths:
            try:
                fastrnn.load_model(path)
            except (fastrnn.UnsupportedLayerError, fastrnn.ModelFormatError):
                refused += 1
        print(refused, seen)
        """
    )
    command = [sys.executable, "-c", watch, str(good), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    # An initializer that is not known is harmless: the weights replace its values.
    assert run.stdout.strip() == f"{len(bad) - 1} []"


@pytest.mark.parametrize(
    "class_name",
    [
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
        "StringLookup",
        "TextVectorization",
        "TFOpLambda",
        "eval",
    ],
)
def test_layers_that_hold_code_or_name_files(class_name, with_config):
    layer = {
        "class_name": class_name,
        "config": {"name": "evil", "trainable": True, "function": "f"},
    }
    with pytest.raises(UnsupportedLayerError, match=rf"Sequential 'model' > {class_name} 'evil'"):
        fastrnn.load_model(with_config(model_config(layer)))


def test_names_that_are_no_layers_of_the_package(with_config):
    for name in ("Layer", "REGISTRY", "__builtins__", "base", "np"):
        layer = {"class_name": name, "config": {"name": "l", "trainable": True}}
        with pytest.raises(UnsupportedLayerError, match="not supported"):
            fastrnn.load_model(with_config(model_config(layer)))


# Configs


def nested_models(depth):
    config = model_config()
    for i in range(depth):
        config = model_config(config)
        config["config"]["name"] = f"model{i}"
    return config


CONFIGS = {
    "a giant": "{" + " " * (config_module.MAX_JSON_BYTES + 1) + "}",
    "no object": "[]",
    "no JSON": "nonsense",
    "not text": b"\xff\xfe\x00\x01" * 10,
    "endless brackets": "[" * 100_000,
    "endless objects": '{"a":' * 100_000,
    "a giant number": '{"a": ' + "9" * 10_000 + "}",
    "a key that occurs twice": '{"class_name": "Sequential", "class_name": "Functional"}',
    "models nested too deep": json.dumps(nested_models(40)),
    "too many layers": json.dumps(model_config(*[lstm_config()] * (config_module.MAX_LAYERS + 1))),
    "two layers of a name": json.dumps(model_config(lstm_config(), lstm_config())),
    "no units": json.dumps(model_config(lstm_config(units=0))),
    "giant units": json.dumps(model_config(lstm_config(units=2**40))),
    "true units": json.dumps(model_config(lstm_config(units=True))),
    "units of text": json.dumps(model_config(lstm_config(units="3; import os"))),
    "a flag of text": json.dumps(model_config(lstm_config(stateful="no"))),
    "a dropout that is not a number": json.dumps(model_config(lstm_config(dropout=float("nan")))),
    "a negative size": json.dumps(model_config(build_input_shape=[None, -4, 2])).replace(
        "[null, 4, 2]", "null"
    ),
    "a giant size": json.dumps(model_config()).replace("[null, 4, 2]", "[null, 4, 99999999999]"),
    "stateful without a batch": json.dumps(model_config(lstm_config(stateful=True))),
    "a name that is no text": json.dumps(model_config()).replace('"lstm"', "5"),
    "no layers": json.dumps({"class_name": "Sequential", "config": {"name": "m"}}),
    "layers that do not fit": json.dumps(
        model_config(
            lstm_config(), {**lstm_config(), "config": {**lstm_config()["config"], "name": "two"}}
        )
    ),
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_configs(text, with_config):
    path = with_config(text)

    def refuse():
        with pytest.raises(ModelFormatError):
            fastrnn.load_model(path)

    assert calls_of(refuse) < 2_000_000


@pytest.mark.parametrize("place", ["inbound_nodes", "input_layers", "output_layers"])
def test_structures_nested_too_deep(place, with_config):
    text = json.dumps(operation_config(("Exp", [X], {})))
    before, after = text.rsplit(f'"{place}": ', 1)
    _, end = json.JSONDecoder().raw_decode(after)
    for depth in (300, 450, 900):
        deep = "[" * depth + "]" * depth
        with pytest.raises(ModelFormatError):
            fastrnn.load_model(with_config(f'{before}"{place}": {deep}{after[end:]}'))


def test_models_that_call_the_same_model_twice_and_so_on(with_config):
    config = operation_config(("Exp", [X], {}))
    for i in range(25):
        name = f"m{i}"
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": history}}
            for history in (["x", 0, 0], [name, 0, 0])
        ]
        inner = {**config, "name": name, "config": {**config["config"], "name": name}}
        inner["inbound_nodes"] = [{"args": [tensor], "kwargs": {}} for tensor in tensors]
        config = operation_config()
        config["config"]["layers"].append(inner)
        config["config"]["output_layers"] = [[name, 2, 0]]
    with pytest.raises(ModelFormatError, match="calls 33554432 layers"):
        fastrnn.load_model(with_config(config))


def test_options_that_do_not_belong_to_the_layer(with_config):
    with pytest.raises(UnsupportedLayerError, match=r"LSTM 'lstm'.*'evil'"):
        fastrnn.load_model(with_config(model_config(lstm_config(evil=1))))


def test_merged_models_that_go_too_deep_or_too_far(with_config):
    def merged(models):
        first = {"class_name": "Merge", "config": {"name": "m", "mode": "sum", "layers": models}}
        return {"class_name": "Sequential", "config": [first]}

    config = {"name": "d", "units": 1, "batch_input_shape": [None, 3]}
    dense = {"class_name": "Dense", "config": config}
    deep = [dense]
    for _ in range(40):
        deep = [merged(deep)]
    for models in (deep, [dense] * 10_001, [{"class_name": "Sequential", "config": [[]]}]):
        with pytest.raises(ModelFormatError, match=r"nested more|more than 10000|as an object"):
            fastrnn.load_model(with_config(merged(models)))


def test_metadata_of_no_keras(write_archive):
    for metadata in (None, "{}", '{"keras_version": 3}', '{"keras_version": "evil"}', "[]"):
        with pytest.raises(ModelFormatError, match=r"metadata\.json|version"):
            fastrnn.load_model(write_archive(metadata__json=metadata))


def test_model_that_declares_more_than_the_file_holds(tmp_path, write_archive):
    """A config of terabytes with weights of a few bytes is refused before memory is filled."""
    config = json.dumps(model_config(lstm_config(units=200_000))).encode()
    code = textwrap.dedent(
        """
        import re, sys
        import fastrnn
        try:
            fastrnn.load_model(sys.argv[1])
        except fastrnn.ModelFormatError as error:
            # Not getrusage, which counts what the process was before it ran Python anew: all of pytest.
            kilobytes = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())
            print(int(kilobytes[1]) // 1024, error)
        """
    )
    command = [sys.executable, "-c", code, str(write_archive(config__json=config))]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert int(run.stdout.split()[0]) < 1000, run.stdout


# Operations, which are computed on small arrays when a file is loaded

X = {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}}
HUGE = 1 << 40
COSTLY = {
    "Arange": ([], {"start": 0.0, "stop": 1.0, "step": 1e-15, "dtype": X}),
    "ArraySplit": ([X], {"indices_or_sections": 10**8, "axis": -1}),
    "BroadcastTo": ([X], {"shape": [1 << 20, 1 << 20, 2, 4, 2]}),
    "Diff": ([X], {"n": 10**8}),
    "Dot": ([X, [[0.0] * 9000] * 2], {}),
    "Einsum": (["abc,def,ghi,jkl->", *[X] * 4], {}),
    "ExtractSequences": ([X], {"sequence_length": HUGE, "sequence_stride": 1}),
    "Full": ([[HUGE], X], {}),
    "GetItem": ([X, [[0] * 100, [[0]] * 100]], {}),
    "Kron": ([X, [[0.0] * 100] * 100], {}),
    "Linspace": ([X, X], {"num": HUGE}),
    "Matmul": ([[[0.0] * 4] * 20_000, X], {}),
    "Meshgrid": ([[0.0] * 100, [0.0] * 100, X], {}),
    "MultiHot": ([X], {"num_classes": HUGE}),
    "OneHot": ([X], {"num_classes": HUGE}),
    "Outer": ([X, [0.0] * 10_000], {}),
    "Pad": ([X], {"pad_width": [[0, 0], [0, HUGE], [0, 0]]}),
    "Quantile": ([X, [0.5] * 10_000], {}),
    "Repeat": ([X], {"repeats": HUGE, "axis": 1}),
    "Scatter": ([[[0]], X], {"shape": [HUGE]}),
    "Stack": ([[X] * 10_000], {"axis": 1}),
    "Take": ([X, [0] * 50_000], {"axis": 1}),
    "Tensordot": ([X, [0.0] * 10_000], {"axes": 0}),
    "Tile": ([X], {"repeats": [1, HUGE, 1]}),
    "Where": ([X, [[[[0.0]]]] * 100, [[[[[0.0]]]]] * 100], {}),
}


def operation_config(*calls):
    """A functional model of one input (None, 4, 2) and operations, each (class's name, args, kwargs), called on it."""

    def layer(module, class_name, name, config, nodes):
        config = {"name": name, **config}
        described = {"module": module, "class_name": class_name, "config": config, "name": name}
        return {**described, "inbound_nodes": nodes}

    shape = {"batch_shape": [None, 4, FEATURES], "dtype": "float32"}
    layers = [layer("keras.layers", "InputLayer", "x", shape, [])]
    for i, (class_name, args, kwargs) in enumerate(calls):
        node = {"args": args, "kwargs": kwargs}
        layers.append(layer("keras.src.ops.numpy", class_name, f"op{i}", {}, [node]))
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [[f"op{len(calls) - 1}", 0, 0]]}
    config = {"name": "model", "trainable": True, "layers": layers, **ends}
    return {"module": "keras", "class_name": "Functional", "config": config}


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTLY)
def test_operations_that_would_cost_too_much(name, with_config, monkeypatch):
    args, kwargs = COSTLY[name]
    monkeypatch.setattr(_trials, "MOST_NUMBERS", 100_000)
    with pytest.raises(ModelFormatError, match=r"operation 'op0':.* at most 100000 numbers"):
        fastrnn.load_model(with_config(operation_config((name, args, kwargs))))


def test_many_operations_that_cost_too_much_together(with_config, monkeypatch):
    calls = [("Tile", [X], {"repeats": [1, 5000, 1]})] * 100
    monkeypatch.setattr(_trials, "MOST_IN_ALL", 10**7)
    with pytest.raises(ModelFormatError, match="give at most 10000000 numbers in all"):
        fastrnn.load_model(with_config(operation_config(*calls)))


# Zip archives


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../evil", "assets/../../evil", "..\\evil", "C:\\evil", "assets/..", "\\evil"],
)
def test_members_that_point_outside(name, write_archive):
    # zipfile itself rewrites some of these names when it reads them: no file may appear either way.
    path = write_archive(extra=[(name.replace("\\", "~"), b"evil")])
    if "\\" in name:
        path.write_bytes(path.read_bytes().replace(name.replace("\\", "~").encode(), name.encode()))
    with pytest.raises(ModelFormatError, match="points outside"):
        fastrnn.load_model(path)


def test_member_that_is_a_link(write_archive):
    link = zipfile.ZipInfo("assets/link")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ModelFormatError, match="is a link"):
        fastrnn.load_model(write_archive(extra=[(link, "/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name(write_archive):
    with pytest.raises(ModelFormatError, match="two members"):
        fastrnn.load_model(write_archive(extra=[("config.json", b"{}")]))


def test_encrypted_member(write_archive):
    path = write_archive()
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="encrypted"):
        fastrnn.load_model(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(method, tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members().items():
            archive.writestr(name, content)
    with pytest.raises(ModelFormatError, match="compressed by the method"):
        fastrnn.load_model(path)


def test_zip_bomb(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(model__weights__h5=None).items():
            archive.writestr(name, content)
        archive.writestr("model.weights.h5", bytes(archive_module.MAX_SMALL_MEMBER + 1))
    with pytest.raises(ModelFormatError, match="unpacks from"):
        fastrnn.load_model(path)


def test_config_that_unpacks_to_a_giant(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (config_module.MAX_JSON_BYTES + 1))
    with pytest.raises(ModelFormatError, match=r"config\.json is larger"):
        fastrnn.load_model(path)


@pytest.mark.parametrize("declared", [10, 10**6, 2**32 - 2])
def test_size_that_lies(declared, write_archive):
    path = write_archive()
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    assert content[central + 46 :].startswith(b"config.json")
    struct.pack_into("<L", content, central + 24, declared)
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        fastrnn.load_model(path)


def test_damaged_member(write_archive):
    path = write_archive()
    content = path.read_bytes().replace(b'"class_name": "LSTM"', b'"class_name": "LSTN"')
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"damaged.*CRC"):
        fastrnn.load_model(path)


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated_archive(keep, write_archive):
    path = write_archive()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFormatError, match="zip"):
        fastrnn.load_model(path)


def test_archive_with_too_many_members(write_archive):
    extra = [(f"assets/{i}", b"") for i in range(archive_module.MAX_MEMBERS)]
    with pytest.raises(ModelFormatError, match="members"):
        fastrnn.load_model(write_archive(extra=extra))


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_missing_member(missing, write_archive):
    with pytest.raises(ModelFormatError, match=f"no {missing}"):
        fastrnn.load_model(write_archive(**{missing.replace(".", "__"): None}))


def test_directory_with_links(tmp_path):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, content in members().items():
        (folder / name).write_bytes(content)
    assert fastrnn.load_model(folder).name == "model"
    (folder / "model.weights.h5").rename(tmp_path / "elsewhere.h5")
    (folder / "model.weights.h5").symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(ModelFormatError, match="not a regular file"):
        fastrnn.load_model(folder)


# HDF5 files


def replace(file, make, path=KERNEL):
    del file[path]
    make(file, path)


def soft_link(file, path):
    file["elsewhere"] = np.zeros(SHAPES[0], np.float32)
    file[path] = h5py.SoftLink("/elsewhere")


def external_link(file, path):
    with h5py.File(Path(file.filename).parent / "other.h5", "w") as other:
        other["kernel"] = np.zeros(SHAPES[0], np.float32)
    file[path] = h5py.ExternalLink("other.h5", "kernel")


def external_storage(file, path):
    secret = Path(file.filename).parent / "secret"
    secret.write_bytes(b"s" * 1000)
    file.create_dataset(path, SHAPES[0], "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, path):
    layout = h5py.VirtualLayout(SHAPES[0], "f4")
    layout[:] = h5py.VirtualSource("other.h5", "kernel", SHAPES[0])
    file.create_virtual_dataset(path, layout)


def unknown_filter(file, path):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(SHAPES[0])
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple(SHAPES[0])
    h5py.h5d.create(file.id, path.encode(), h5py.h5t.IEEE_F32LE, space, creation)


def lzf_filter(file, path):
    file.create_dataset(path, data=np.zeros(SHAPES[0], "f4"), compression="lzf")


def giant_chunks(file, path):
    file.create_dataset(
        path, SHAPES[0], "f4", chunks=(2**14, 2**14), maxshape=(None, None), compression="gzip"
    )
    file[path].id.write_direct_chunk((0, 0), b"\x78\x9c\x03\x00\x00\x00\x00\x01")


def giant_contiguous(file, path):
    file.create_dataset(path, (2**34,), "f4")


def giant_compressed(file, path):
    file.create_dataset(path, (2**20, 2**14), "f4", chunks=(1, 2**14), compression="gzip")


def right_shape_without_data(file, path):
    file.create_dataset(path, SHAPES[0], "f4")


def named_type(file, path):
    file[path] = np.dtype("f4")


def group_instead(file, path):
    file.create_group(path)


def of_type(dtype):
    def make(file, path):
        file.create_dataset(path, data=np.zeros(SHAPES[0], dtype))

    return make


def object_references(file, path):
    file.create_dataset(path, SHAPES[0], h5py.ref_dtype)[0, 0] = file.ref


def varying_lengths(file, path):
    file.create_dataset(path, SHAPES[0], h5py.vlen_dtype(np.float32))[0, 0] = [1.0]


def texts(file, path):
    file.create_dataset(path, SHAPES[0], h5py.string_dtype())[0, 0] = "evil"


def empty(file, path):
    file[path] = h5py.Empty("f4")


def transposed(file, path):
    file[path] = np.zeros(SHAPES[0][::-1], np.float32)


def another_rank(file, path):
    file[path] = np.zeros((*SHAPES[0], 1), np.float32)


DATASETS = {
    "soft link": (soft_link, "is a link"),
    "link to another file": (external_link, "is a link"),
    "storage in another file": (external_storage, "from another file"),
    "virtual": (virtual, "from another file"),
    "filter from a plugin": (unknown_filter, "filters"),
    "filter that h5py adds": (lzf_filter, "filters"),
    "giant chunks": (giant_chunks, "chunks"),
    "giant without data": (giant_contiguous, "not in the file"),
    "giant of compressed nothing": (giant_compressed, "not in the file"),
    "right shape without data": (right_shape_without_data, "not in the file"),
    "named type": (named_type, "not an array"),
    "group": (group_instead, "not an array"),
    "integers": (of_type("i4"), "holds int32, expected float32"),
    "booleans": (of_type("?"), "expected numbers"),
    "complex numbers": (of_type("c8"), "expected numbers"),
    "compound": (of_type([("a", "f4"), ("b", "f4")]), "expected numbers"),
    "two bytes of a compound": (of_type([("a", "i1"), ("b", "i1")]), "expected numbers"),
    "bytes": (of_type("S4"), "expected numbers"),
    "references": (object_references, "expected numbers"),
    "varying lengths": (varying_lengths, "expected numbers"),
    "texts": (texts, "expected numbers"),
    "empty": (empty, "is empty"),
    "transposed": (transposed, "takes arrays of the shapes"),
    "another rank": (another_rank, "takes arrays of the shapes"),
}


@pytest.mark.parametrize(("make", "message"), DATASETS.values(), ids=DATASETS)
def test_datasets(make, message, with_weights):
    with pytest.raises(ModelFormatError, match=message):
        with_weights(lambda file: replace(file, make))


def test_data_that_cannot_be_unpacked(with_weights):
    def damaged(file, path):
        file.create_dataset(path, SHAPES[0], "f4", chunks=SHAPES[0], compression="gzip")
        file[path].id.write_direct_chunk((0, 0), b"no gzip at all")

    with pytest.raises(ModelFormatError, match="cannot be read"):
        with_weights(lambda file: replace(file, damaged))


@pytest.mark.parametrize(
    "path", ["layers", "layers/lstm", "layers/lstm/cell", "layers/lstm/cell/vars"]
)
def test_groups_that_are_links(path, with_weights):
    def change(file):
        file.move(path, "moved")
        file[path] = h5py.SoftLink("/moved")

    with pytest.raises(ModelFormatError, match="is a link"):
        with_weights(change)


def test_hard_links_in_a_circle_are_never_walked(with_weights):
    def change(file):
        file["layers/lstm/loop"] = file["layers/lstm"]
        file["layers/layers"] = file["layers"]

    assert with_weights(change).count_params() == sum(map(np.prod, SHAPES))


def test_types_that_are_converted(with_weights):
    for dtype in ("<f2", ">f4", ">f8"):
        assert with_weights(lambda file, dtype=dtype: replace(file, of_type(dtype)))


def test_bfloat16(with_weights):
    def change(file, path):
        values = np.full(SHAPES[0], np.float32(1.5)).view("<u4")
        file.create_dataset(path, data=(values >> 16).astype("<u2").view("V2"))
        file[path].attrs["dtype"] = "bfloat16"

    model = with_weights(lambda file: replace(file, change))
    np.testing.assert_array_equal(model.get_weights()[0], np.full(SHAPES[0], 1.5, np.float32))


@pytest.mark.parametrize("keep", [8, 100, 0.5, -100])
def test_truncated_hdf5(keep, tmp_path, write_archive):
    content = weights_bytes()
    keep = int(len(content) * keep) if isinstance(keep, float) else keep
    path = tmp_path / "m.weights.h5"
    path.write_bytes(content[:keep])
    (tmp_path / "m.json").write_text(json.dumps(model_config()))
    with pytest.raises(ModelFormatError):
        fastrnn.load_model(tmp_path / "m.json", weights=path)
    with pytest.raises(ModelFormatError):
        fastrnn.load_model(write_archive(model__weights__h5=content[:keep]))


@pytest.mark.slow
def test_random_damage_is_refused_or_harmless(tmp_path, rng):
    """Bytes changed anywhere in a file give a model or a clear error, never anything else."""
    content = weights_bytes()
    (tmp_path / "m.json").write_text(json.dumps(model_config()))
    path = tmp_path / "m.weights.h5"
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(8, len(content), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ModelFormatError):
            fastrnn.load_model(tmp_path / "m.json", weights=path)


# Attributes of the older files


def reference_names(file, layer):
    layer.attrs["weight_names"] = np.array([file.ref] * 3, h5py.ref_dtype)


ATTRIBUTES = {
    "numbers for names": (lambda f, g: g.attrs.create("weight_names", [1.0, 2.0, 3.0]), "not text"),
    "references for names": (reference_names, "not text"),
    "a giant list of names": (
        lambda f, g: g.attrs.create("weight_names", np.array([b"k"] * 10_001)),
        "too large",
    ),
    "names that leave the group": (
        lambda f, g: g.attrs.create("weight_names", ["../lstm/k", "r", "b"]),
        "no path",
    ),
    "absolute names": (lambda f, g: g.attrs.create("weight_names", ["/k", "r", "b"]), "no path"),
    "names of nothing": (
        lambda f, g: g.attrs.create("weight_names", ["x", "r", "b"]),
        "no array 'x'",
    ),
    "an array twice": (
        lambda f, g: g.attrs.create("weight_names", ["k", "k", "b"]),
        "takes arrays",
    ),
    "too few names": (lambda f, g: g.attrs.create("weight_names", ["k", "r"]), "takes arrays"),
    "no names": (lambda f, g: g.attrs.clear(), "weights for 0 layers"),
    "layers of nothing": (lambda f, g: g.parent.attrs.create("layer_names", ["x"]), "no group"),
    "a layer twice": (
        lambda f, g: g.parent.attrs.create("layer_names", ["lstm"] * 2),
        "for 2 layers",
    ),
    "a config of numbers": (lambda f, g: f.attrs.create("model_config", 5), "not text"),
    "a list of configs": (
        lambda f, g: f.attrs.create("model_config", ["{}", "{}"]),
        "not one text",
    ),
    "an empty config": (lambda f, g: f.attrs.create("model_config", ""), "JSON"),
    "bytes that are no text": (
        lambda f, g: f.attrs.create("model_config", b"\xff\xfe"),
        "model_config",
    ),
    "an odd version": (lambda f, g: f.attrs.create("keras_version", "evil"), "version"),
}


@pytest.mark.parametrize(("change", "message"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes(change, message, legacy):
    with pytest.raises(ModelFormatError, match=message):
        legacy(change)


def test_weights_group_that_is_a_link(legacy):
    def change(file, layer):
        file.move("model_weights", "moved")
        file["model_weights"] = h5py.ExternalLink("/etc/hostname", "/moved")

    with pytest.raises(ModelFormatError, match="is a link"):
        legacy(change)


# What is no model at all

FOREIGN = {
    "empty": (b"", "empty"),
    "pickle": (b"\x80\x04\x95cos\nsystem\n", "pickle"),
    "SavedModel": (b"\x08\x01\x12\x00", "SavedModel"),
    "numpy": (b"\x93NUMPY\x01\x00", "NumPy"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "text": (b"hello", "neither"),
    "TFLite": (b"\x1c\x00\x00\x00TFL3", "neither"),
    "user block": (b"\x00" * 512 + b"\x89HDF\r\n\x1a\n", "neither"),
    "JSON of something else": (b'{"weights": []}', "class_name"),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(content, message, tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=message):
        fastrnn.load_model(path)


def test_zip_of_something_else(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04")
    with pytest.raises(ModelFormatError, match=r"no config\.json"):
        fastrnn.load_model(path)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ModelFormatError, match="not a regular file"):
            fastrnn.load_model(path)


@pytest.mark.parametrize("path", ["https://example.org/m.keras", "hf://somebody/model"])
def test_addresses_are_not_fetched(path):
    with pytest.raises(FileNotFoundError):
        fastrnn.load_model(path)


# Weights in several files


@pytest.mark.parametrize(
    "shards",
    [
        "../m.h5",
        "/etc/passwd",
        "sub/m.h5",
        "..\\m.h5",
        "C:m.h5",
        "m\0.h5",
        "m" * 300 + ".h5",
        "m.keras",
        "link.h5",
        "text.h5",
        3,
        {},
        [],
        [f"{i}.h5" for i in range(1001)],
    ],
)
def test_shards_are_hdf5_files_of_plain_names(shards, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.json").write_text(json.dumps(model_config()))
    (tmp_path / "m.h5").write_bytes(weights_bytes())
    (folder / "text.h5").write_text("{}")
    (folder / "link.h5").symlink_to("/dev/null")
    (folder / "w.json").write_text(json.dumps({"weight_map": {"/layers/lstm": shards}}))
    with pytest.raises(ModelFormatError):
        fastrnn.load_model(folder / "m.json", weights=folder / "w.json")


def test_shard_that_is_not_there(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(model_config()))
    (tmp_path / "w.json").write_text(json.dumps({"weight_map": {"/layers/lstm": "gone.h5"}}))
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        fastrnn.load_model(tmp_path / "m.json", weights=tmp_path / "w.json")


def test_a_part_of_a_saved_model_says_what_to_do(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(ModelFormatError, match="give the folder that it lies in"):
        fastrnn.load_model(tmp_path / "saved_model.pb")


INITIALIZERS = [
    {"class_name": "Zeros", "module": ["keras"], "config": {}},
    {"class_name": "Zeros", "module": 5, "config": {}},
    {"class_name": "Zeros", "module": "keras.initializers", "config": 1.5},
    {"class_name": "Zeros", "module": "keras.initializers", "config": [1]},
    {"class_name": ["Zeros"], "module": "keras.initializers", "config": {}},
    {"class_name": "Orthogonal", "config": {"seed": {"class_name": "SeedGenerator"}}},
    {"class_name": "Constant", "config": {"value": {"class_name": "__tensor__"}}},
    [[]],
    1.5,
]


@pytest.mark.parametrize("described", INITIALIZERS, ids=str)
def test_initializers_that_are_none(described, with_config):
    """Harmless, as the weights replace their values."""
    model = fastrnn.load_model(
        with_config(json.dumps(model_config(lstm_config(kernel_initializer=described))))
    )
    assert model.count_params() == sum(map(np.prod, SHAPES))


@pytest.mark.parametrize("option", ["kernel_regularizer", "kernel_initializer", "units", "name"])
def test_options_nested_too_deep(option, with_config):
    before, after = json.dumps(model_config(lstm_config(**{option: 12345}))).split("12345")
    for depth in (10, 400, 700, 800, 900, 950, 1000):
        path = with_config(f"{before}{'[' * depth}1{']' * depth}{after}")
        with contextlib.suppress(ModelFormatError):
            fastrnn.load_model(path)


def test_texts_that_are_not_utf_8(tmp_path, with_weights):
    def change(file):
        file.attrs["layer_names"] = np.array([b"\xff\x80"])

    with pytest.raises(ModelFormatError, match="layer_names is not text in UTF-8"):
        with_weights(change)
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = np.bytes_(b"\xff{")
    with pytest.raises(ModelFormatError, match="model_config is not text in UTF-8"):
        fastrnn.load_model(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "missing"])
def test_names_of_no_file(name):
    for names in [(name,), (__file__, name)]:
        with pytest.raises((FileNotFoundError, ModelFormatError)):
            fastrnn.load_model(*names)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        fastrnn.load_model(name)


@pytest.mark.parametrize("path", [b"m.keras", 5, None, ["m.keras"]])
def test_paths_that_are_none(path):
    with pytest.raises(TypeError, match=r"expected a path, as str or os\.PathLike"):
        fastrnn.load_model(path)


@pytest.mark.skipif(sys.platform != "linux", reason="a file of Linux that opens and cannot be read")
def test_file_that_cannot_be_read():
    with pytest.raises(ModelFormatError, match="cannot be read"):
        fastrnn.load_model("/proc/self/mem")


def test_weights_without_layers(with_config, tmp_path):
    """The file holds what the model leaves out: a model that did nothing would be returned."""
    empty = model_config()
    empty["config"]["layers"] = empty["config"]["layers"][:1]
    with pytest.raises(ModelFormatError, match="'lstm', a layer that the model does not have"):
        fastrnn.load_model(with_config(json.dumps(empty)))
    inside = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    path = with_config(json.dumps(model_config(lstm_config(), inside)))
    assert fastrnn.load_model(path).count_params() == sum(map(np.prod, SHAPES))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members(config__json=json.dumps(model_config(inside))).items():
            archive.writestr(name, content)
    with pytest.raises(ModelFormatError, match="does not have"):
        fastrnn.load_model(path)


def heap_of(path):
    """Where the heap of texts of varying length begins in a file."""
    place = path.read_bytes().index(b"GCOL\x01\x00\x00\x00")
    assert place > 0
    return place


@pytest.mark.parametrize(
    ("number", "size"),
    [(0, 0), (0, 8), *((number, size) for number in (0, 1) for size in (2**64 - 16, 2**63, 5000))],
)
def test_heaps_that_lead_nowhere(number, size, tmp_path):
    """HDF5 goes from object to object by their sizes, and would never end."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model_config())
        file.attrs["keras_version"] = "2.15.0"
        file.create_group("model_weights")
    content = bytearray(path.read_bytes())
    struct.pack_into("<HHIQ", content, heap_of(path) + 16, number, 1, 0, size)
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="heap of texts is damaged"):
        fastrnn.load_model(path)


def test_heaps_that_are_cut_off():
    stream = io.BytesIO(b"x" * 3000 + b"GCOL\x01\x00\x00\x00" + struct.pack("<Q", 4096))
    with pytest.raises(ModelFormatError, match="cut off"):
        check_heaps(stream, "m.h5")
    stream.seek(0, io.SEEK_END)
    stream.write(struct.pack("<HHIQ", 0, 0, 0, 4080))
    check_heaps(stream, "m.h5")


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ([5], {"mask": X}, "expected tensors as inputs; got '5'"),
        ([X], {"mask": "text"}, "expected a mask as a tensor; got 'text'"),
        ([{**X, "config": {"keras_history": ["x", 0, 3]}}], {}, "call 0 of 'x' has no output 3"),
    ],
)
def test_calls_of_what_is_no_tensor(args, kwargs, message, with_config):
    config = operation_config(("Exp", [X], {}))
    softmax = {"module": "keras.layers", "class_name": "Softmax", "name": "s"}
    nodes = [{"args": args, "kwargs": kwargs}]
    config["config"]["layers"].append({**softmax, "config": {"name": "s"}, "inbound_nodes": nodes})
    with pytest.raises(ModelFormatError, match=message):
        fastrnn.load_model(with_config(json.dumps(config)))


LISTS_PLUGINS = """
    import sys
    import fastrnn
    for path in sys.argv[1:]:
        try:
            fastrnn.load_model(path)
        except fastrnn.ModelFormatError:
            pass
    import h5py
    print(h5py.h5pl.size(), h5py.h5pl.get(0))
    """


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_other_file_is_opened_and_no_plugin_looked_for(tmp_path, write_archive):
    """What the kernel is asked for, also by libraries in C."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    good = write_archive().rename(tmp_path / "good.keras")
    whole = weights_bytes()
    bad = []
    for name, content in {
        "truncated.h5": whole[: len(whole) // 2],
        "flipped.h5": whole[:100] + bytes(b ^ 0xFF for b in whole[100:]),
        "header.h5": whole[:8] + os.urandom(500),
        "cut.keras": good.read_bytes()[:-10],
    }.items():
        bad.append(tmp_path / name)
        bad[-1].write_bytes(content)
    calls = "trace=open,openat,connect,execve,unlink,rename,mkdir"
    strace = ["strace", "-f", "-qq", "-e", calls, "-o", tmp_path / "log"]
    load = [sys.executable, "-c", textwrap.dedent(LISTS_PLUGINS), good, *bad, good]
    run = subprocess.run(
        [*strace, *load],
        env={**os.environ, "HDF5_PLUGIN_PATH": str(plugins)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert run.stdout.strip() == f"1 {os.fsencode(plugins)!r}"
    calls = (tmp_path / "log").read_text().splitlines()
    first = next(i for i, call in enumerate(calls) if good.name in call)
    last = max(i for i, call in enumerate(calls) if good.name in call)
    assert str(plugins) not in "".join(calls)
    assert not [call for call in calls if "connect(" in call]
    # After the first load, nothing is imported any more, and nothing but the files given is opened.
    second = next(i for i, call in enumerate(calls) if bad[0].name in call)
    assert first < second < last
    for call in calls[second : last + 1]:
        assert any(path.name in call for path in [good, *bad]), call
