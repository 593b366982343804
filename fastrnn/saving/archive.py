"""Reading ``.keras`` archives and folders, zipped or not, that may be hostile.

Members are read into memory, with their sizes looked at first; nothing is written to disk and no
name from the archive is ever used as a path.
"""

import contextlib
import io
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
        ``stream(member)``, which returns it as a file, ``has(member)``, ``folder_of(member)``, which tells where
        in it a member lies, and ``weights()``, which returns a source for `fastrnn.saving.hdf5.open_hdf5`.
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

    def stream(self, member: str) -> io.BufferedIOBase | None:
        file = self._file(member)
        return None if file is None else open(file, "rb")

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

    def stream(self, member: str) -> io.BufferedIOBase | None:
        content = self.read(member)
        return None if content is None else io.BytesIO(content)

    def read(self, member: str, limit: int | None = None) -> bytes | None:
        if not self.has(member):
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
