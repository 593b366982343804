"""What an installation and the archives of the package hold."""

import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

import fastrnn

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
DATA = {"fastrnn/data/sunspots-monthly.csv", "fastrnn/data/sunspots.keras"}


def run_setup(*commands):
    subprocess.run([sys.executable, "setup.py", "--quiet", *commands], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def installed_files(tmp_path_factory):
    """The files that a wheel takes from the source tree."""
    library = tmp_path_factory.mktemp("library")
    run_setup("build_py", "--build-lib", str(library))
    return {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source_files(tmp_path_factory):
    """The files of the source archive."""
    folder = tmp_path_factory.mktemp("archive")
    run_setup("egg_info", "--egg-base", str(folder), "sdist", "--dist-dir", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {member.name.partition("/")[2] for member in tar if member.isfile()}


def test_metadata_comes_from_one_place():
    described = metadata.metadata("fastrnn")
    assert described["Version"] == fastrnn.__version__
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.11"
    (script,) = metadata.entry_points(group="console_scripts", name="fastrnn")
    assert script.value == "fastrnn.cli:main"


def sources(*suffixes):
    """The package's files with such a suffix, relative to the root."""
    files = [path for suffix in suffixes for path in (ROOT / "fastrnn").rglob(f"*{suffix}")]
    assert files
    return {str(path.relative_to(ROOT)) for path in files}


def test_installation_has_modules_types_and_data_and_no_sources_of_kernels(installed_files):
    assert installed_files == sources(".py", ".pyi") | DATA | {"fastrnn/py.typed"}


def test_source_archive_has_what_a_build_reads(source_files):
    assert source_files >= DATA | {"setup.py", "pyproject.toml", "LICENSE", "README.md"}
    assert source_files >= sources(".py", ".pyi", ".pyx", ".pxd", ".h")
    assert not {name for name in source_files if name.endswith((".c", ".so"))}
