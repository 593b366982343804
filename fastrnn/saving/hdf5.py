"""Reading HDF5 files that may be hostile.

Only what lies in the file itself is ever read: every link must be a hard link, every dataset stored
inside the file, unfiltered or with the built-in filters (gzip, shuffle, fletcher32), of plain
numbers. Shape, type and storage are looked at before any data; whoever asks for an array says which
shape it must have.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastrnn.errors import ModelFormatError
from fastrnn.saving import arrays
from fastrnn.saving.heaps import check_heaps
from fastrnn.saving.images import Image, Window

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_ATTRIBUTE_BYTES = 32 << 20
MAX_NAMES = 10_000
MAX_CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
"""What is read of an array at a time."""

LEAST_SHARE = 0.75
"""Of a file's bytes in memory, what weights must be to keep all of it in memory instead of copies of themselves."""

_BUILT_IN_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32


@contextlib.contextmanager
def open_hdf5(
    source: Path | Image | Window, label: str, file_bytes: int, max_bytes: int
) -> "Iterator[Group]":
    """Open an HDF5 file for reading.

    Parameters
    ----------
    source : path, Image or Window
        The file's path, or its content.
    label : str
        What messages call it.
    file_bytes : int
        The size of the file that it is or lies in.
    max_bytes : int
        What texts of varying length in it may take, at most.

    Yields
    ------
    Group
        The root group.
    """
    import h5py

    file = None
    with _damage_as_format_error(h5py, f"{label} as an HDF5 file"):
        file = h5py.File(source, "r")
    image = source if isinstance(source, Image) and not file.userblock_size else None
    content = File(h5py, label, source, image, file_bytes, max_bytes)
    try:
        yield Group(content, file, "/")
    finally:
        with _damage_as_format_error(h5py, label):
            file.close()


@dataclass
class File:
    """What the groups and arrays of one file share.

    Attributes
    ----------
    h5py : module
    label : str
        What messages call the file.
    source : path, Image or Window
    image : Image or None
        The source, where arrays can be parts of it.
    file_bytes, max_bytes : int
        As for `open_hdf5`.
    """

    h5py: Any
    label: str
    source: Path | Image | Window
    image: Image | None
    file_bytes: int
    max_bytes: int

    @cached_property
    def heaps_are_whole(self) -> bool:
        """bool: True, or a ModelFormatError: to be looked at before texts of varying length are read."""
        with contextlib.ExitStack() as stack:
            source: Any = self.source
            if isinstance(source, Path):
                source = stack.enter_context(open(source, "rb"))
            check_heaps(source, self.label)
        return True

    def reading(self, place: str) -> contextlib.AbstractContextManager[None]:
        """Return what every access to the file happens in."""
        return _damage_as_format_error(self.h5py, place)


@contextlib.contextmanager
def _damage_as_format_error(h5py: Any, place: str) -> Iterator[None]:
    """Turn whatever h5py raises on a damaged file into a ModelFormatError."""
    try:
        with _no_plugins(h5py):
            yield
    except ModelFormatError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, MemoryError) as error:
        raise ModelFormatError(f"{place} cannot be read: {error}") from error


@contextlib.contextmanager
def _no_plugins(h5py: Any) -> Iterator[None]:
    """Keep HDF5 from looking for code that could open what it cannot, in the directories of HDF5_PLUGIN_PATH.

    These are the whole process's, so h5py's lock is held: other threads find them as they were.
    """
    plugins = h5py.h5pl
    with h5py._objects.phil:
        directories = [plugins.get(i) for i in range(plugins.size())]
        for _ in directories:
            plugins.remove(0)
        try:
            yield
        finally:
            for directory in directories:
                plugins.append(directory)


class Group:
    """A group of an HDF5 file. Groups and arrays are found by name, never by walking the file."""

    def __init__(self, file: File, group: Any, path: str) -> None:
        self._file = file
        self._group = group
        self.path = path

    @property
    def place(self) -> str:
        """File and path, for messages."""
        return f"{self._file.label}, {self.path}"

    @property
    def file_bytes(self) -> int:
        """int: the size of the file, or of the archive that it lies in."""
        return self._file.file_bytes

    def let_arrays_share(self, nbytes: int) -> None:
        """Let arrays, of so many bytes in all, be parts of the file's bytes in memory if they are most of these."""
        image = self._file.image
        if image is not None:
            image.shared = nbytes >= LEAST_SHARE * image.size

    def _member(self, name: str) -> tuple[Any, str] | None:
        """Return the h5py object and its path for `name` or a path of names, None if absent."""
        group, path = self._group, self.path.rstrip("/")
        for part in name.split("/"):
            path = f"{path}/{part}"
            if not isinstance(group, self._file.h5py.Group):
                return None
            key = part.encode()
            if part in ("", ".", ".."):
                raise ModelFormatError(f"{self._file.label}: {path[:200]!r} is no path in a file")
            if not group.id.links.exists(key):
                return None
            if group.id.links.get_info(key).type != self._file.h5py.h5l.TYPE_HARD:
                raise ModelFormatError(f"{self._file.label}, {path} is a link to elsewhere")
            group = group[part]
        return group, path

    def group(self, name: str) -> "Group | None":
        """Return the group `name` (a name or a path of names), or None if there is none."""
        with self._file.reading(f"{self.place} > {name}"):
            found = self._member(name)
            if found is None:
                return None
            member, path = found
            if not isinstance(member, self._file.h5py.Group):
                raise ModelFormatError(f"{self._file.label}, {path} is not a group")
            return Group(self._file, member, path)

    def array(self, name: str) -> "StoredArray | None":
        """Return the `StoredArray` `name`, or None if there is none."""
        with self._file.reading(f"{self.place} > {name}"):
            found = self._member(name)
            if found is None:
                return None
            member, path = found
            if not isinstance(member, self._file.h5py.Dataset):
                raise ModelFormatError(f"{self._file.label}, {path} is not an array")
            return StoredArray(self._file, member, path)

    def names(self) -> list[str]:
        """Return the names of the members that are text, in no particular order."""
        with self._file.reading(self.place):
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
        h5py = self._file.h5py
        with self._file.reading(f"{self.place}, attribute {name}"):
            if not h5py.h5a.exists(self._group.id, name.encode()):
                return None
            attribute = h5py.h5a.open(self._group.id, name.encode())
            stored_type = attribute.get_type()
            count = math.prod(attribute.shape)
            if count > MAX_NAMES or count * stored_type.get_size() > MAX_ATTRIBUTE_BYTES:
                raise ModelFormatError(f"{self.place}: the attribute {name} is too large")
            if count and not isinstance(stored_type, h5py.h5t.TypeStringID):
                raise ModelFormatError(f"{self.place}: the attribute {name} is not text")
            self._check_varying(stored_type, count, name)
            return np.asarray(self._group.attrs[name]) if count else np.empty(0, object)

    def _check_varying(self, stored_type: Any, count: int, name: str) -> None:
        """Refuse texts of varying length which could take more than they may, or HDF5 forever."""
        if not count or not stored_type.is_variable_str():
            return
        file = self._group.file.id
        if file.get_create_plist().get_sizes() != (8, 8) or not self._file.heaps_are_whole:
            raise ModelFormatError(f"{self._file.label} measures in other than 8 bytes")
        # All of them may be one long text in the file.
        most = count * file.get_filesize()
        if count > 1 and most > self._file.max_bytes:
            raise ModelFormatError(
                f"{self.place}: the attribute {name} holds {count} texts of varying length, which may take {most} "
                f"bytes; at most {self._file.max_bytes} may be taken; see max_bytes of load_model"
            )

    def _decode(self, item: Any, attribute: str) -> str:
        try:
            text = item.decode("utf-8", "strict") if isinstance(item, bytes) else item
        except UnicodeDecodeError as error:
            raise ModelFormatError(
                f"{self.place}: the attribute {attribute} is not text in UTF-8: {error}"
            ) from error
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

    @property
    def file_bytes(self) -> int:
        """int: the size of the files."""
        return sum(group.file_bytes for group in self._groups)

    def let_arrays_share(self, nbytes: int) -> None:
        for group in self._groups:
            group.let_arrays_share(nbytes)

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

    def __init__(self, file: File, dataset: Any, path: str) -> None:
        self._file = file
        self._dataset = dataset
        self.place = place = f"{file.label}, {path}"
        self.shape = dataset.shape
        if self.shape is None:
            raise ModelFormatError(f"{place} is empty")
        self._is_bfloat16 = _is_bfloat16(file.h5py, dataset)
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
        with self._file.reading(self.place):
            return self._read(dtype)

    def _read(self, dtype: np.dtype) -> np.ndarray:
        dataset = self._dataset
        stored = dataset.dtype
        image = self._file.image
        if image is not None and image.shared and stored == dtype:
            offset = dataset.id.get_offset()  # None of what is in chunks
            if offset is not None and offset % dtype.itemsize == 0:
                return image.array(offset, self.shape, dtype)
        values = np.empty(self.shape, dtype)
        if dataset.size:
            self._read_blocks(values)
        return values

    def _read_blocks(self, values: np.ndarray) -> None:
        """Fill `values` block by block: of what is converted little is in memory twice, and Ctrl-C is heard between.

        It would be lost in the midst of h5py, where objects are deleted: none are, between the blocks.
        """
        h5py, dataset = self._file.h5py, self._dataset
        stored = dataset.dtype
        memory_type = h5py.h5t.py_create(stored)
        file_space = dataset.id.get_space()
        if not self.shape:
            buffer = np.empty((), stored)
            dataset.id.read(h5py.h5s.create(h5py.h5s.SCALAR), file_space, buffer, memory_type)
            values[()] = self._converted(buffer, values.dtype)
            return
        rows_of_chunk = dataset.chunks[0] if dataset.chunks else 1
        row_bytes = dataset.size * stored.itemsize // len(values)
        rows = rows_of_chunk * max(1, BLOCK_BYTES // (row_bytes * rows_of_chunk))
        spaces = {
            count: h5py.h5s.create_simple((count, *self.shape[1:]))
            for count in {min(rows, len(values)), len(values) % rows} - {0}
        }
        origin = (0,) * (values.ndim - 1)
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            buffer = block if stored == values.dtype else np.empty(block.shape, stored)
            file_space.select_hyperslab((start, *origin), block.shape)
            dataset.id.read(spaces[len(block)], file_space, buffer, memory_type)
            if buffer is not block:
                block[...] = self._converted(buffer, values.dtype)

    def _converted(self, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return arrays.converted(arrays.widened_bfloat16(data) if self._is_bfloat16 else data, dtype)


def _is_bfloat16(h5py: Any, dataset: Any) -> bool:
    """Whether these are the opaque pairs of bytes as which bfloat16 is stored."""
    dtype = dataset.dtype
    opaque = dataset.id.get_type().get_class() == h5py.h5t.OPAQUE
    return opaque and dtype.kind == "V" and dtype.itemsize == 2
