"""Reading ``.keras`` archives and folders, zipped or not, that may be hostile.

Members are read with their sizes looked at first, what is not compressed from where it lies; nothing
is written to disk and no name from the archive is ever used as a path.
"""

import contextlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastrnn.errors import ModelFormatError
from fastrnn.saving.images import Image, Window
from fastrnn.saving.members import SIGNATURE, WEIGHTS

MAX_MEMBERS = 10_000
MAX_RATIO = 100
MAX_SMALL_MEMBER = 64 << 20

BLOCK_BYTES = 1 << 20
"""What is read at a time."""

_HEADER = struct.Struct("<4s22xHH")
"""Before a member: signature, what the directory says too, lengths of the name and of what comes behind it."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@contextlib.contextmanager
def open_archive(path: Path) -> "Iterator[Archive]":
    """Open a ``.keras`` file, or the directory that one unpacks to.

    Yields
    ------
    ZipArchive or DirectoryArchive
        With ``read(member, limit)``, which returns the bytes of a member or None if there is none,
        ``stream(member, limit)``, which returns it as a file, ``has(member)``, ``folder_of(member)``, which tells where
        in it a member lies, ``size_of(*beginnings)``, which tells how large the members are whose names begin so, or
        the file that holds them, and ``weights(limit)``, which returns a source for `fastrnn.saving.hdf5.open_hdf5`.
    """
    if path.is_dir():
        yield DirectoryArchive(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFormatError(f"{path} is a damaged zip file: {error}") from error
    with archive:
        yield ZipArchive(archive, path)


class DirectoryArchive:
    """The members of an archive as the files of a directory; links are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _file(self, member: str) -> Path | None:
        file = self.path
        *folders, name = member.split("/")
        try:
            for folder in folders:
                file = file / folder
                if not stat.S_ISDIR(file.lstat().st_mode):
                    raise ModelFormatError(f"{file} is not a folder")
            file = file / name
            mode = file.lstat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise ModelFormatError(f"{file} is not a regular file")
        return file

    def has(self, member: str) -> bool:
        return self._file(member) is not None

    def folder_of(self, member: str) -> str | None:
        """Return "" if there is such a file, else None: folders within are not searched."""
        return "" if self.has(member) else None

    def stream(self, member: str, limit: int) -> io.BufferedIOBase | None:
        file = self._file(member)
        return None if file is None else open(file, "rb")

    def read(self, member: str, limit: int) -> bytes | None:
        file = self._file(member)
        if file is None:
            return None
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(min(size, limit) + 1)  # for as much there is memory at once
        if len(content) > limit:
            raise ModelFormatError(
                f"{file} is larger than {limit} bytes; see max_bytes of load_model"
            )
        return content

    def size_of(self, *beginnings: str) -> int:
        """Return the size of the files whose names begin so, in all."""
        found: set[Path] = set()
        for beginning in beginnings:
            folder, _, name = beginning.rpartition("/")
            place = self.path / folder
            if place.is_dir():
                found.update(file for file in place.iterdir() if file.name.startswith(name))
        modes = [file.lstat() for file in found]
        return sum(mode.st_size for mode in modes if stat.S_ISREG(mode.st_mode))

    def weights(self, limit: int) -> Path:
        file = self._file(WEIGHTS)
        if file is None:
            raise ModelFormatError(f"{self.path} has no {WEIGHTS}")
        return file


class ZipArchive:
    """The members of a zip file, checked as a whole before any is read."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.path = path
        self._archive = archive
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise ModelFormatError(f"{path} has {len(members)} members; at most {MAX_MEMBERS}")
        names: set[str] = set()
        for member in members:
            self._check(member)
            if member.filename in names:
                raise ModelFormatError(f"{path} has two members named {member.filename!r}")
            names.add(member.filename)
        self._names = names

    def _check(self, member: zipfile.ZipInfo) -> None:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
            raise ModelFormatError(f"{self.path}: the member {name[:200]!r} points outside")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ModelFormatError(f"{self.path}: the member {name[:200]!r} is a link")
        if member.flag_bits & 1:
            raise ModelFormatError(f"{self.path}: the member {name[:200]!r} is encrypted")
        if member.compress_type not in _METHODS:
            raise ModelFormatError(
                f"{self.path}: the member {name[:200]!r} is compressed by the method "
                f"{member.compress_type}; only stored and deflated ones are read"
            )
        bomb = member.file_size > MAX_RATIO * max(member.compress_size, 1)
        if bomb and member.file_size > MAX_SMALL_MEMBER:
            raise ModelFormatError(
                f"{self.path}: the member {name[:200]!r} unpacks from {member.compress_size} "
                f"to {member.file_size} bytes"
            )

    def has(self, member: str) -> bool:
        return member in self._names

    def folder_of(self, member: str) -> str | None:
        """Return the folder that holds a member, "" or ending with a slash, or None if there is none."""
        folders = [
            name.removesuffix(member) for name in self._names if f"/{name}".endswith(f"/{member}")
        ]
        if len(folders) > 1:
            shown = ", ".join(sorted(folder or "the top" for folder in folders)[:5])
            raise ModelFormatError(
                f"{self.path} has a {member} in several folders ({shown}): zip the one that is meant"
            )
        return folders[0] if folders else None

    def size_of(self, *beginnings: str) -> int:
        """Return the size of the file, whichever of its members count."""
        return self.path.stat().st_size

    def stream(self, member: str, limit: int) -> Image | Window | None:
        """Return a member as a file, an `Image` if it had to be unpacked, or None if there is none."""
        return self._content(member, limit) if self.has(member) else None

    def read(self, member: str, limit: int) -> bytes | None:
        image = self._unpacked(member, limit)
        return None if image is None else image.buffer.tobytes()

    def _unpacked(self, member: str, limit: int) -> Image | None:
        """The content of a member, or None if there is no such one."""
        if not self.has(member):
            return None
        declared = self._archive.getinfo(member).file_size
        if declared > limit:
            raise ModelFormatError(
                f"{self.path}: {member} is larger than {limit} bytes; see max_bytes of load_model"
            )
        image = Image(declared)
        count = 0
        with self._damage_of(member), self._archive.open(member) as stream:
            while block := stream.read(min(BLOCK_BYTES, declared - count)):
                image.buffer[count : count + len(block)] = block
                count += len(block)
            count += len(stream.read(1))  # at its end the check sum is compared
        if count != declared:
            raise ModelFormatError(
                f"{self.path}: {member} has {count} bytes, {declared} are declared"
            )
        return image

    @contextlib.contextmanager
    def _damage_of(self, member: str) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
            raise ModelFormatError(f"{self.path}: {member} is damaged: {error}") from error

    def weights(self, limit: int) -> Image | Window:
        if WEIGHTS not in self._names:
            raise ModelFormatError(f"{self.path} has no {WEIGHTS}")
        return self._content(WEIGHTS, limit)

    def _content(self, name: str, limit: int) -> Image | Window:
        member = self._archive.getinfo(name)
        if member.compress_type == zipfile.ZIP_STORED:
            with self._damage_of(name):
                return self._in_place(member)
        image = self._unpacked(name, limit)
        assert image is not None
        return image

    def _in_place(self, member: zipfile.ZipInfo) -> Window:
        """Return a member that is not compressed where it lies; its check sum is compared first."""
        file: Any = self._archive.fp
        file.seek(member.header_offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(SIGNATURE):
            raise zipfile.BadZipFile("there is no header where it should be")
        _, name_length, extra_length = _HEADER.unpack(header)
        start = member.header_offset + _HEADER.size + name_length + extra_length
        window = Window(file, start, member.file_size)
        checksum = 0
        while block := window.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
        if checksum != member.CRC or member.compress_size != member.file_size:
            raise zipfile.BadZipFile("bad CRC-32, its check sum")
        return window


Archive = DirectoryArchive | ZipArchive
