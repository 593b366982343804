"""Finding out what a file is and opening it as a config with weights."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastrnn._types import Config
from fastrnn.errors import ModelFormatError
from fastrnn.saving import hdf5, members
from fastrnn.saving.config import MAX_JSON_BYTES, parse_json, parse_version

if TYPE_CHECKING:
    from fastrnn.saving.archive import Archive

_KINDS = (
    (b"\x80", "a Python pickle, which is never opened"),
    (b"\x08\x01", "a TensorFlow SavedModel's graph"),
    (b"NUMPY", "a NumPy file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"GIF", "an image"),
    (b"<", "a web page or XML"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
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
    weights : fastrnn.saving.hdf5.Group or None
        The root of the HDF5 file with the weights; None for an architecture alone.
    """

    config: Config
    version: tuple[int, ...]
    weights: hdf5.Group | None


@contextlib.contextmanager
def open_model(path: str | os.PathLike[str]) -> Iterator[StoredModel]:
    """Open a ``.keras`` file (or its directory), a whole-model ``.h5`` or an architecture JSON.

    What a file is, is told by its first bytes. Yields a `StoredModel`.
    """
    path, kind = _kind_of(path)
    with contextlib.ExitStack() as stack:
        if kind == "archive":
            yield _archived_model(_open_archive(path, stack), stack)
        elif kind == "hdf5":
            root = stack.enter_context(hdf5.open_hdf5(path, str(path)))
            text = root.text("model_config")
            if text is None:
                raise ModelFormatError(
                    f"{path} holds weights without a model; give the architecture as the model "
                    "and this file as weights"
                )
            config = parse_json(text, f"{path}: model_config")
            yield StoredModel(config, parse_version(root.text("keras_version")), root)
        else:
            with open(path, "rb") as stream:
                content = stream.read(MAX_JSON_BYTES + 1)
            config = parse_json(content, str(path))
            yield StoredModel(config, _version_of_json(config), None)


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[hdf5.Group]:
    """Open a weights file, or a whole model for its weights; yields the root group."""
    path, kind = _kind_of(path)
    with contextlib.ExitStack() as stack:
        if kind == "archive":
            yield _archived_weights(_open_archive(path, stack), stack)
        elif kind == "hdf5":
            yield stack.enter_context(hdf5.open_hdf5(path, str(path)))
        else:
            raise ModelFormatError(f"{path} is JSON, expected a file with weights")


def _kind_of(file: str | os.PathLike[str]) -> tuple[Path, Literal["archive", "hdf5", "json"]]:
    """Return the path and "archive", "hdf5" or "json"."""
    path = Path(os.fspath(file))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {str(path)!r}") from None
    if stat.S_ISDIR(mode):
        if (path / members.CONFIG).exists():
            return path, "archive"
        raise ModelFormatError(f"{path} is a directory without a Keras {members.CONFIG}")
    if not stat.S_ISREG(mode):
        raise ModelFormatError(f"{path} is not a regular file")
    with open(path, "rb") as stream:
        start = stream.read(64)
    if start.startswith(members.SIGNATURE):
        return path, "archive"
    if start.startswith(hdf5.SIGNATURE):
        return path, "hdf5"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return path, "json"
    known = (what for signature, what in _KINDS if start.startswith(signature))
    what = next(known, "neither a .keras archive, an HDF5 file nor JSON" if start else "empty")
    raise ModelFormatError(f"{path} is {what}; expected a model that Keras saved")


def _open_archive(path: Path, stack: contextlib.ExitStack) -> "Archive":
    from fastrnn.saving.archive import open_archive  # zipfile takes time to import

    return stack.enter_context(open_archive(path))


def _archived_model(archive: "Archive", stack: contextlib.ExitStack) -> StoredModel:
    config = _archived_json(archive, members.CONFIG)
    version = _archived_json(archive, members.METADATA).get("keras_version", "")
    return StoredModel(config, parse_version(version), _archived_weights(archive, stack))


def _archived_json(archive: "Archive", member: str) -> Config:
    text = archive.read(member, MAX_JSON_BYTES)
    if text is None:
        raise ModelFormatError(f"{archive.path} has no {member}: it is no Keras archive")
    return parse_json(text, f"{archive.path}: {member}")


def _archived_weights(archive: "Archive", stack: contextlib.ExitStack) -> hdf5.Group:
    label = f"{archive.path}: {members.WEIGHTS}"
    return stack.enter_context(hdf5.open_hdf5(archive.weights(), label))


def _version_of_json(config: Config) -> tuple[int, ...]:
    """Return the version in an architecture; Keras 3 writes none, and modules instead."""
    version = config.get("keras_version")
    if version is None and "module" in config:
        return (3,)
    return parse_version(version)
