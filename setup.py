"""Builds the one core for each instruction set and number type."""

import os
import platform
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
SOURCE = "fastrnn/_core.pyx"
STUBS = Path("build/core")
X86_LEVELS = {
    "base": [],
    "v3": ["-march=x86-64-v3", "-mtune=generic"],
    "v4": ["-march=x86-64-v4", "-mtune=generic", "-mprefer-vector-width=512"],
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp",
    "-Wno-psabi",
    # gcc 12 calls memset for the sums of a tile, which keeps them in memory: SimpleRNN(16) took 63 ns a step, not 52.
    "-fno-tree-loop-distribute-patterns",
]


def levels() -> dict[str, list[str]]:
    """Instruction sets to build for, with their flags."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return X86_LEVELS if x86 else {"base": []}


def extension(level: str, flags: list[str], bits: int) -> Extension:
    """One build of the core: a stub that includes its source, since two extensions cannot share one .pyx."""
    name = f"_core_{level}_f{bits}"
    stub = STUBS / f"{name}.pyx"
    text = f'include "{os.path.relpath(ROOT / SOURCE, stub.parent)}"\n'
    stub.parent.mkdir(parents=True, exist_ok=True)
    if not stub.exists() or stub.read_text() != text:
        stub.write_text(text)
    werror = (
        ["-Wall", "-Werror", "-Wno-unused-function"]
        if os.environ.get("FASTRNN_WERROR") == "1"
        else []
    )
    return Extension(
        f"fastrnn.{name}",
        [str(stub)],
        include_dirs=["fastrnn/kernels", numpy.get_include()],
        define_macros=[
            ("FASTRNN_REAL_BITS", str(bits)),
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
        ],
        extra_compile_args=FLAGS + flags + werror,
        extra_link_args=["-fopenmp"],
        depends=[SOURCE, *map(str, Path("fastrnn/kernels").glob("*"))],
    )


extensions = [
    extension(level, flags, bits) for level, flags in levels().items() for bits in (32, 64)
]
setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES),
    options={"build_ext": {"parallel": True}},
)
