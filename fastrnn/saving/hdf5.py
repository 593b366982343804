"""Reading HDF5 files that may be hostile.

Only what lies in the file itself is ever read: every link must be a hard link, every dataset stored
inside the file, unfiltered or with the built-in filters (gzip, shuffle, fletcher32), of plain
numbers. Shape, type and storage are looked at before any data; whoever asks for an array says which
shape it must have.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastrnn.errors import ModelFormatError
from fastrnn.saving import arrays

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_ATTRIBUTE_BYTES = 32 << 20
MAX_NAMES = 10_000
MAX_CHUNK_BYTES = 1 << 20

_BUILT_IN_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32


@contextlib.contextmanager
def open_hdf5(source: Path | bytes, label: str) -> "Iterator[Group]":
    """Open an HDF5 file for reading.

    Parameters
    ----------
    source : path or bytes
        The file's path, or its content.
    label : str
        What messages call it.

    Yields
    ------
    Group
        The root group.
    """
    import h5py

    try:
        image = h5py.h5f.open_file_image(source) if isinstance(source, bytes) else None
        file = h5py.File(source, "r") if image is None else h5py.File(image)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFormatError(f"{label} is not a readable HDF5 file: {error}") from error
    with file:
        yield Group(h5py, file, label, "/")


@contextlib.contextmanager
def _damage_as_format_error(place: str) -> Iterator[None]:
    """Turn whatever h5py raises on a damaged file into a ModelFormatError."""
    try:
        yield
    except ModelFormatError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise ModelFormatError(f"{place} cannot be read: {error}") from error


class Group:
    """A group of an HDF5 file. Groups and arrays are found by name, never by walking the file."""

    def __init__(self, h5py: Any, group: Any, label: str, path: str) -> None:
        self._h5py = h5py
        self._group = group
        self._label = label
        self.path = path

    @property
    def place(self) -> str:
        """File and path, for messages."""
        return f"{self._label}, {self.path}"

    def _member(self, name: str) -> tuple[Any, str] | None:
        """Return the h5py object and its path for `name` or a path of names, None if absent."""
        group, path = self._group, self.path.rstrip("/")
        for part in name.split("/"):
            path = f"{path}/{part}"
            if not isinstance(group, self._h5py.Group):
                return None
            key = part.encode()
            if part in ("", ".", ".."):
                raise ModelFormatError(f"{self._label}: {path[:200]!r} is no path in a file")
            if not group.id.links.exists(key):
                return None
            if group.id.links.get_info(key).type != self._h5py.h5l.TYPE_HARD:
                raise ModelFormatError(f"{self._label}, {path} is a link to elsewhere")
            group = group[part]
        return group, path

    def group(self, name: str) -> "Group | None":
        """Return the group `name` (a name or a path of names), or None if there is none."""
        with _damage_as_format_error(f"{self.place} > {name}"):
            found = self._member(name)
            if found is None:
                return None
            member, path = found
            if not isinstance(member, self._h5py.Group):
                raise ModelFormatError(f"{self._label}, {path} is not a group")
            return Group(self._h5py, member, self._label, path)

    def array(self, name: str) -> "StoredArray | None":
        """Return the `StoredArray` `name`, or None if there is none."""
        with _damage_as_format_error(f"{self.place} > {name}"):
            found = self._member(name)
            if found is None:
                return None
            member, path = found
            if not isinstance(member, self._h5py.Dataset):
                raise ModelFormatError(f"{self._label}, {path} is not an array")
            return StoredArray(self._h5py, member, f"{self._label}, {path}")

    def names(self) -> list[str]:
        """Return the names of the members that are text, in no particular order."""
        with _damage_as_format_error(self.place):
            if len(self._group) > MAX_NAMES:
                raise ModelFormatError(f"{self.place} has more than {MAX_NAMES} members")
            return [name for name in self._group if isinstance(name, str)]

    def text(self, attribute: str) -> str | None:
        """Return a text attribute as str, or None if there is none."""
        value = self._attribute(attribute)
        if value is None:
            return None
        if value.size != 1:
            raise ModelFormatError(f"{self.place}: the attribute {attribute} is not one text")
        return self._decode(value.reshape(())[()], attribute)

    def texts(self, attribute: str) -> list[str] | None:
        """Return a list-of-texts attribute, joined if it was split in numbered parts, or None."""
        whole = self._attribute(attribute)
        parts = [] if whole is None else [whole]
        while whole is None and len(parts) <= MAX_NAMES:
            part = self._attribute(f"{attribute}{len(parts)}")
            if part is None:
                break
            parts.append(part)
        if not parts:
            return None
        names = [self._decode(item, attribute) for part in parts for item in part.ravel()]
        if len(names) > MAX_NAMES:
            raise ModelFormatError(f"{self.place}: {attribute} holds {len(names)} names")
        return names

    def _attribute(self, name: str) -> np.ndarray | None:
        """Return an attribute as an array, after looking at its size and type."""
        h5py = self._h5py
        with _damage_as_format_error(f"{self.place}, attribute {name}"):
            if not h5py.h5a.exists(self._group.id, name.encode()):
                return None
            attribute = h5py.h5a.open(self._group.id, name.encode())
            stored_type = attribute.get_type()
            count = math.prod(attribute.shape)
            if count > MAX_NAMES or count * stored_type.get_size() > MAX_ATTRIBUTE_BYTES:
                raise ModelFormatError(f"{self.place}: the attribute {name} is too large")
            if count and not isinstance(stored_type, h5py.h5t.TypeStringID):
                raise ModelFormatError(f"{self.place}: the attribute {name} is not text")
            return np.asarray(self._group.attrs[name]) if count else np.empty(0, object)

    def _decode(self, item: Any, attribute: str) -> str:
        text = item.decode("utf-8", "strict") if isinstance(item, bytes) else item
        if not isinstance(text, str) or len(text) > MAX_ATTRIBUTE_BYTES:
            raise ModelFormatError(f"{self.place}: the attribute {attribute} is not text")
        return text


class Shards(Group):
    """Groups of one path in several files, of which each holds some of the members."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = groups

    @property
    def place(self) -> str:
        """Files and path, for messages."""
        return " and ".join(group.place for group in self._groups)

    def group(self, name: str) -> "Group | None":
        """Return the groups `name` of all files that have one as one, or None."""
        found = [group.group(name) for group in self._groups]
        groups = [group for group in found if group is not None]
        return Shards(groups) if groups else None

    def array(self, name: str) -> "StoredArray | None":
        """Return the `StoredArray` `name` of the first file that has it, or None."""
        found = (group.array(name) for group in self._groups)
        return next((array for array in found if array is not None), None)

    def names(self) -> list[str]:
        """Return the names of the members in all files, in no particular order."""
        return list({name for group in self._groups for name in group.names()})

    def _attribute(self, name: str) -> np.ndarray | None:
        found = (group._attribute(name) for group in self._groups)
        return next((value for value in found if value is not None), None)


class StoredArray:
    """An array in an HDF5 file that has been looked at and not read.

    Attributes
    ----------
    place : str
        File and path, for messages.
    shape : tuple of int
    """

    def __init__(self, h5py: Any, dataset: Any, place: str) -> None:
        self._dataset = dataset
        self.place = place
        self.shape = dataset.shape
        if self.shape is None:
            raise ModelFormatError(f"{place} is empty")
        self._is_bfloat16 = _is_bfloat16(h5py, dataset)
        if dataset.dtype.kind not in "fiu" and not self._is_bfloat16:
            raise ModelFormatError(f"{place} holds {dataset.dtype}, expected numbers")
        self._check_storage()

    def _check_storage(self) -> None:
        dataset = self._dataset
        creation = dataset.id.get_create_plist()
        if dataset.is_virtual or creation.get_external_count():
            raise ModelFormatError(f"{self.place} takes its data from another file")
        filters = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
        if filters - _BUILT_IN_FILTERS:
            raise ModelFormatError(
                f"{self.place} is stored with the filters {sorted(filters)}; "
                "only gzip, shuffle and fletcher32 are read"
            )
        size = dataset.size * dataset.dtype.itemsize
        if size and not dataset.id.get_storage_size():
            raise ModelFormatError(f"{self.place} declares data that is not in the file")
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if dataset.chunks and chunk > max(size, MAX_CHUNK_BYTES):
            raise ModelFormatError(f"{self.place} is stored in chunks of {chunk} bytes")

    def read(self, dtype: DTypeLike) -> np.ndarray:
        """Return the data as a new array of `dtype`; floating types are converted to one another.

        The caller has compared ``shape`` with what it expects.
        """
        dtype = np.dtype(dtype)
        stored = self._dataset.dtype
        arrays.check_kind(stored, self._is_bfloat16, self.shape, dtype, self.place)
        with _damage_as_format_error(self.place):
            data = np.asarray(self._dataset[()])
        if self._is_bfloat16:
            data = arrays.widened_bfloat16(data)
        return arrays.converted(data, dtype)


def _is_bfloat16(h5py: Any, dataset: Any) -> bool:
    """Whether these are the opaque pairs of bytes as which bfloat16 is stored."""
    dtype = dataset.dtype
    opaque = dataset.id.get_type().get_class() == h5py.h5t.OPAQUE
    return opaque and dtype.kind == "V" and dtype.itemsize == 2
