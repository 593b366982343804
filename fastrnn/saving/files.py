"""Finding out what a file is and opening it as a config with weights."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastrnn._types import Config
from fastrnn.errors import ModelFormatError
from fastrnn.saving import hdf5, members, savedmodel, sstable, tensor_bundle
from fastrnn.saving.config import MAX_JSON_BYTES, parse_json, parse_version
from fastrnn.saving.eras import NEWEST_KERAS
from fastrnn.saving.memory import TIMES_JSON, default_max_bytes
from fastrnn.saving.object_graph import TrackedObject, root_object

if TYPE_CHECKING:
    from fastrnn.saving.archive import Archive

MAX_SHARDS = 1000

Weights = hdf5.Group | TrackedObject
"""The root of stored weights: of an HDF5 file, or of a TensorFlow checkpoint."""

_LATEST = "checkpoint"
"""The file in which TensorFlow notes the name of the newest checkpoint beside it."""

_KINDS = (
    (b"\x80", "a Python pickle, which is never opened"),
    (b"\x08\x01", "a part of a TensorFlow SavedModel; give the folder that it lies in"),
    (b"NUMPY", "a NumPy file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"GIF", "an image"),
    (b"<", "a web page or XML"),
    (members.LFS_POINTER, "a Git LFS pointer, not the file it stands for"),
)


@dataclass(frozen=True)
class StoredModel:
    """A model as it lies in a file.

    Attributes
    ----------
    config : dict
        The parsed JSON.
    version : tuple of int
        Of the Keras that wrote it.
    weights : fastrnn.saving.hdf5.Group, fastrnn.saving.object_graph.TrackedObject or None
        The root of the HDF5 file, or of the checkpoint, with the weights; None for an architecture alone.
    file_bytes : int
        The size of the file, or of the files in a folder that count.
    """

    config: Config
    version: tuple[int, ...]
    weights: Weights | None
    file_bytes: int


@contextlib.contextmanager
def open_model(path: str | os.PathLike[str], max_bytes: int | None = None) -> Iterator[StoredModel]:
    """Open a ``.keras`` file (or its directory), a SavedModel folder, a whole-model ``.h5`` or an architecture JSON.

    What a file is, is told by its first bytes. What is unpacked or parsed of it takes at most `max_bytes`, by default
    what is in proportion to the file. Yields a `StoredModel`.
    """
    path, kind = _kind_of(path)
    with contextlib.ExitStack() as stack:
        if kind == "archive":
            yield _archived_model(_open_archive(path, stack), max_bytes, stack)
        elif kind == "checkpoint":
            raise _weights_alone(path)
        elif kind == "hdf5":
            root = _open_hdf5(path, max_bytes, stack)
            text = root.text("model_config")
            if text is None:
                raise _weights_alone(path)
            config = parse_json(
                text, f"{path}: model_config", _most_json(root.file_bytes, max_bytes)
            )
            version = parse_version(root.text("keras_version"))
            yield StoredModel(config, version, root, root.file_bytes)
        else:
            config = _read_json(path, max_bytes)
            if "weight_map" in config:
                raise _weights_alone(path)
            yield StoredModel(config, _version_of_json(config), None, path.stat().st_size)


def _limit(file_bytes: int, max_bytes: int | None) -> int:
    return default_max_bytes(file_bytes) if max_bytes is None else max_bytes


def _most_json(file_bytes: int, max_bytes: int | None) -> int:
    return min(MAX_JSON_BYTES, _limit(file_bytes, max_bytes) // TIMES_JSON)


def _open_hdf5(path: Path, max_bytes: int | None, stack: contextlib.ExitStack) -> hdf5.Group:
    size = path.stat().st_size
    return stack.enter_context(hdf5.open_hdf5(path, str(path), size, _limit(size, max_bytes)))


def _weights_alone(path: Path) -> ModelFormatError:
    return ModelFormatError(
        f"{path} holds weights without a model; give the architecture as the model "
        "and this file as weights"
    )


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str], max_bytes: int | None = None) -> Iterator[Weights]:
    """Open a weights file or a checkpoint, or a whole model for its weights; yields the root."""
    path, kind = _kind_of(path)
    with contextlib.ExitStack() as stack:
        if kind == "archive":
            archive = _open_archive(path, stack)
            folder = _savedmodel_in(archive)
            if folder is None:
                yield _archived_weights(archive, max_bytes, stack)
            else:
                yield _tracked_weights(archive, folder + savedmodel.VARIABLES, max_bytes, stack)
        elif kind == "checkpoint":
            archive = _open_archive(path.parent, stack)
            yield _tracked_weights(archive, path.name, max_bytes, stack)
        elif kind == "hdf5":
            yield _open_hdf5(path, max_bytes, stack)
        else:
            shards = _shards(path, max_bytes)
            if shards is None:
                raise ModelFormatError(f"{path} is JSON, expected a file with weights")
            yield hdf5.Shards([_open_hdf5(one, max_bytes, stack) for one in shards])


def _shards(path: Path, max_bytes: int | None) -> list[Path] | None:
    """Return the files that a JSON of weights in several files names; all lie beside it."""
    config = _read_json(path, max_bytes)
    weight_map = config.get("weight_map")
    if not isinstance(weight_map, dict):
        return None
    lists = [one if isinstance(one, list) else [one] for one in weight_map.values()]
    names = {str(name): None for one in lists for name in one}
    if not names or len(names) > MAX_SHARDS:
        raise ModelFormatError(f"{path} names {len(names)} files, expected 1 to {MAX_SHARDS}")
    for name in names:
        if not re.fullmatch(r"[^/\\:\0]{1,250}\.h5", name):
            raise ModelFormatError(
                f"{path}: expected the name of a file beside it, got {name[:80]!r}"
            )
        if _kind_of(path.with_name(name))[1] != "hdf5":
            raise ModelFormatError(f"{path.with_name(name)} is not an HDF5 file")
    return [path.with_name(name) for name in names]


def _read_json(path: Path, max_bytes: int | None) -> Config:
    most = _most_json(path.stat().st_size, max_bytes)
    with open(path, "rb") as stream:
        return parse_json(stream.read(most + 1), str(path), most)


Kind = Literal["archive", "hdf5", "json", "checkpoint"]


def _kind_of(file: str | os.PathLike[str]) -> tuple[Path, Kind]:
    """Return the path, and what lies there.

    The path of a checkpoint is what its files' names start with, as TensorFlow takes it.
    """
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"expected a path, as str or os.PathLike; got {type(file).__name__}")
    path = Path(os.fspath(file))
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # ValueError for a NUL: no file has such a name
        if _is_checkpoint(path):
            return path, "checkpoint"
        raise FileNotFoundError(f"there is no file {str(path)[:200]!r} ({error})") from error
    if stat.S_ISDIR(mode):
        return _kind_of_directory(path)
    if not stat.S_ISREG(mode):
        raise ModelFormatError(f"{path} is not a regular file")
    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
            stream.seek(max(0, stream.seek(0, 2) - len(sstable.MAGIC)))
            end = stream.read()
    except PermissionError:
        raise
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error}") from error
    if start.startswith(members.SIGNATURE):
        return path, "archive"
    if start.startswith(hdf5.SIGNATURE):
        return path, "hdf5"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return path, "json"
    if end == sstable.MAGIC and path.suffix == tensor_bundle.INDEX:
        return path.with_suffix(""), "checkpoint"
    if path.name == _LATEST and _is_checkpoint(path):  # Keras Tuner's, of the same name as the note
        return path, "checkpoint"
    known = (what for signature, what in _KINDS if start.startswith(signature))
    what = next(known, "neither a .keras archive, an HDF5 file nor JSON" if start else "empty")
    raise ModelFormatError(f"{path} is {what}; expected a model that Keras saved")


def _is_checkpoint(path: Path) -> bool:
    return bool(path.name) and os.path.isfile(f"{path}{tensor_bundle.INDEX}")


def _kind_of_directory(path: Path) -> tuple[Path, Kind]:
    if (path / members.CONFIG).exists() or (path / savedmodel.GRAPH).exists():
        return path, "archive"
    if (path / _LATEST).is_file():
        return _latest_checkpoint(path), "checkpoint"
    raise ModelFormatError(
        f"{path} is a directory without a Keras {members.CONFIG}, a {savedmodel.GRAPH} or a checkpoint"
    )


def _latest_checkpoint(path: Path) -> Path:
    """Return the newest checkpoint of a folder, as the note in it tells."""
    with open(path / _LATEST, "rb") as stream:
        note = stream.read(1 << 16)
    found = re.match(rb'model_checkpoint_path: "([^"/\\:\0]{1,250})"', note)
    if found is None:
        raise ModelFormatError(
            f"{path / _LATEST} does not name a checkpoint beside it; give the checkpoint's own path"
        )
    return path / os.fsdecode(found[1])


def _open_archive(path: Path, stack: contextlib.ExitStack) -> "Archive":
    from fastrnn.saving.archive import open_archive  # zipfile takes time to import

    return stack.enter_context(open_archive(path))


def _savedmodel_in(archive: "Archive") -> str | None:
    """Return the folder of an archive in which a SavedModel lies, or None if it is a Keras archive."""
    if archive.has(members.CONFIG):
        return None
    return archive.folder_of(savedmodel.GRAPH)


def _archived_model(
    archive: "Archive", max_bytes: int | None, stack: contextlib.ExitStack
) -> StoredModel:
    folder = _savedmodel_in(archive)
    if folder is not None:
        return _saved_model(archive, folder, max_bytes, stack)
    file_bytes = archive.size_of(*members.ALL)
    most = _most_json(file_bytes, max_bytes)
    config = _archived_json(archive, members.CONFIG, most)
    version = _archived_json(archive, members.METADATA, most).get("keras_version", "")
    root = _archived_weights(archive, max_bytes, stack)
    return StoredModel(config, parse_version(version), root, file_bytes)


def _saved_model(
    archive: "Archive", folder: str, max_bytes: int | None, stack: contextlib.ExitStack
) -> StoredModel:
    root = _tracked_weights(archive, folder + savedmodel.VARIABLES, max_bytes, stack)
    configs = [folder + name for name in (savedmodel.GRAPH, savedmodel.CONFIGS)]
    file_bytes = archive.size_of(*configs, f"{folder}{savedmodel.VARIABLES}.")
    most = _limit(file_bytes, max_bytes)
    described = savedmodel.read_config(archive, folder, most, _most_json(file_bytes, max_bytes))
    if described is None:
        raise savedmodel.without_configs(f"{archive.path}{f': {folder}' if folder else ''}", root)
    return StoredModel(*described, root, file_bytes)


def _archived_json(archive: "Archive", member: str, most: int) -> Config:
    text = archive.read(member, most)
    if text is None:
        raise ModelFormatError(f"{archive.path} has no {member}: it is no Keras archive")
    return parse_json(text, f"{archive.path}: {member}", most)


def _archived_weights(
    archive: "Archive", max_bytes: int | None, stack: contextlib.ExitStack
) -> hdf5.Group:
    file_bytes = archive.size_of(*members.ALL)
    limit = _limit(file_bytes, max_bytes)
    label = f"{archive.path}: {members.WEIGHTS}"
    return stack.enter_context(hdf5.open_hdf5(archive.weights(limit), label, file_bytes, limit))


def _tracked_weights(
    archive: "Archive", prefix: str, max_bytes: int | None, stack: contextlib.ExitStack
) -> TrackedObject:
    file_bytes = archive.size_of(f"{prefix}.")
    limit = _limit(file_bytes, max_bytes)
    return root_object(
        stack.enter_context(tensor_bundle.open_bundle(archive, prefix, file_bytes, limit))
    )


def _version_of_json(config: Config) -> tuple[int, ...]:
    """Return the version in an architecture; Keras 3 writes none, and modules instead."""
    version = config.get("keras_version")
    if version is None and "module" in config:
        return NEWEST_KERAS
    return parse_version(version)
