"""Writes SavedModel folders and checkpoints byte by byte, so that tests can write wrong ones.

What TensorFlow itself wrote is in `tests/data/savedmodel_files.zip`.
"""

import json
import struct
from pathlib import Path

from fastrnn.saving.crc32c import crc32c, masked
from fastrnn.saving.object_graph import KEY
from fastrnn.saving.sstable import MAGIC

FLOAT, STRING = 1, 7
KINDS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "uint16": 14, "float16": 19}
"""TensorFlow's numbers of types; that of uint16 is bfloat16's."""


# Protocol buffers


def varint(value):
    value %= 1 << 64
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def part(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def fixed32(field, value):
    return varint(field << 3 | 5) + struct.pack("<I", value)


# Tables


def block(entries, compression=0):
    """A block whose keys share nothing, with its trailer."""
    content = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return closed(content + struct.pack("<II", 0, 1), compression)


def closed(content, compression=0):
    content += bytes([compression])
    return content + struct.pack("<I", masked(crc32c(content)))


def handle(start, content):
    return varint(start) + varint(len(content) - 5)


def table(blocks):
    """A table of blocks, each as `block` returns it."""
    content, index = b"", []
    for i, one in enumerate(blocks):
        index.append((b"%06d" % i, handle(len(content), one)))
        content += one
    index_block, meta_block = block(index), block([])
    footer = handle(len(content), meta_block)
    footer += handle(len(content) + len(meta_block), index_block)
    return content + meta_block + index_block + footer.ljust(40, b"\0") + MAGIC


# Checkpoints


def shape(sizes):
    return b"".join(part(2, number(1, size)) for size in sizes)


def entry(kind, sizes, offset, size, checksum, shard=0, extra=b""):
    told = number(1, kind) + part(2, shape(sizes)) + number(3, shard) + number(4, offset)
    return told + number(5, size) + fixed32(6, checksum) + extra


def header(files=1, extra=b""):
    return number(1, files) + extra + part(3, number(1, 1))


def stored_string(text):
    """The bytes of an array of one string, and their masked checksum."""
    length = struct.pack("<I", len(text))
    check = struct.pack("<I", masked(crc32c(length)))
    checksum = crc32c(text, crc32c(check, crc32c(length)))
    return varint(len(text)) + check + text, masked(checksum)


def object_graph(tree):
    """The objects of nested dicts whose leaves are keys of arrays."""
    objects = []

    def add(value):
        place = len(objects)
        objects.append(b"")
        if isinstance(value, dict):
            children = [(name, add(child)) for name, child in value.items()]
            objects[place] = b"".join(
                part(1, number(1, at) + part(2, name)) for name, at in children
            )
        else:
            objects[place] = part(2, part(1, "VARIABLE_VALUE") + part(3, value))
        return place

    add(tree)
    return b"".join(part(1, one) for one in objects)


def checkpoint(arrays, tree, changes=None, graph=None):
    """The contents of the index and of the data of a checkpoint.

    Parameters
    ----------
    arrays : dict of str to ndarray
    tree : nested dict of str
        See `object_graph`.
    changes : dict of str to bytes or None, optional
        Entries of the index that are to be others, or none; that of the header by "".
    graph : bytes, optional
        Instead of what `tree` makes.
    """
    data, entries = b"", {"": header()}
    for key, array in arrays.items():
        content = array.tobytes()
        kind = KINDS[array.dtype.name]
        entries[key] = entry(kind, array.shape, len(data), len(content), masked(crc32c(content)))
        data += content
    content, checksum = stored_string(object_graph(tree) if graph is None else graph)
    entries[KEY] = entry(STRING, (), len(data), len(content), checksum)
    data += content
    entries.update(changes or {})
    told = [(key.encode(), value) for key, value in sorted(entries.items()) if value is not None]
    return table([block(told)]), data


# Folders


def keras_metadata(metadata, identifier="_tf_keras_sequential"):
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    return part(1, number(2, 0) + part(3, "root") + part(4, identifier) + part(5, text))


def saved_model(identifier, metadata):
    """A graph file with one object."""
    user_object = part(1, identifier) + part(3, metadata)
    return number(1, 1) + part(2, part(7, part(1, part(4, user_object))))


def write_folder(folder, members):
    """Write files by their paths in a folder; None leaves one out."""
    for name, content in members.items():
        if content is not None:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return Path(folder)
