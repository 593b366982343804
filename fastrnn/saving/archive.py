"""Reading ``.keras`` archives that may be hostile.

Members are read into memory, with their sizes looked at first; nothing is written to disk and no
name from the archive is ever used as a path.
"""

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fastrnn.errors import ModelFormatError
from fastrnn.saving.members import WEIGHTS

MAX_MEMBERS = 10_000
MAX_RATIO = 100
MAX_SMALL_MEMBER = 64 << 20

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@contextlib.contextmanager
def open_archive(path: Path) -> "Iterator[Archive]":
    """Open a ``.keras`` file, or the directory that one unpacks to.

    Yields
    ------
    ZipArchive or DirectoryArchive
        With ``read(member, limit)``, which returns the bytes of a member or None if there is none,
        and ``weights()``, which returns a source for `fastrnn.saving.hdf5.open_hdf5`.
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
        file = self.path / member
        try:
            mode = file.lstat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise ModelFormatError(f"{file} is not a regular file")
        return file

    def read(self, member: str, limit: int) -> bytes | None:
        file = self._file(member)
        if file is None:
            return None
        with open(file, "rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise ModelFormatError(f"{file} is larger than {limit} bytes")
        return content

    def weights(self) -> Path:
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

    def read(self, member: str, limit: int | None = None) -> bytes | None:
        if member not in self._names:
            return None
        declared = self._archive.getinfo(member).file_size
        if limit is not None and declared > limit:
            raise ModelFormatError(f"{self.path}: {member} is larger than {limit} bytes")
        try:
            with self._archive.open(member) as stream:
                content = stream.read(declared + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
            raise ModelFormatError(f"{self.path}: {member} is damaged: {error}") from error
        if len(content) != declared:
            raise ModelFormatError(
                f"{self.path}: {member} has {len(content)} bytes, {declared} are declared"
            )
        return content

    def weights(self) -> bytes:
        content = self.read(WEIGHTS)
        if content is None:
            raise ModelFormatError(f"{self.path} has no {WEIGHTS}")
        return content


Archive = DirectoryArchive | ZipArchive
