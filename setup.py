"""Builds `fastrnn._core`, with the kernels linked in once for each instruction set and number type.

FASTRNN_BUILD=native leaves out the instruction sets that this CPU lacks, and base, v3 or v4 all but one; without it, or
with all, none is left out. FASTRNN_WERROR=1 makes the compiler's warnings
errors. FASTRNN_DEBUG=1 builds for a debugger, with checks of bounds.
"""

import os
import platform
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("fastrnn/kernels")
# The long ones first, so that none is left for the end.
UNITS = ["quantized", "products", "recurrence", "images", "lanes", "pointwise"]
X86_LEVELS = {
    "v4": ["-march=x86-64-v4", "-mtune=generic", "-mprefer-vector-width=512"],
    "v3": ["-march=x86-64-v3", "-mtune=generic"],
    "base": [],
}
# What /proc/cpuinfo calls the instructions that a level cannot do without.
NEEDED = {
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "bmi2"},
    "v3": {"avx2", "fma", "bmi2"},
    "base": set(),
}
DEBUG = os.environ.get("FASTRNN_DEBUG") == "1"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "freethreading_compatible": True,
}
FLAGS = [
    *(
        ["-g", "-O1", "-fsanitize=bounds", "-fsanitize-undefined-trap-on-error"]
        if DEBUG
        else ["-g0", "-O3"]
    ),
    "-std=gnu11",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp",
    "-Wno-psabi",
]
compiler = os.environ.get("CC") or sysconfig.get_config_var("CC")
version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
if "clang" not in version.stdout:
    # gcc 12 calls memset for the sums of a tile, which keeps them in memory: SimpleRNN(16) took 63 ns a step, not 52.
    FLAGS += ["-fno-tree-loop-distribute-patterns"]
if os.environ.get("FASTRNN_WERROR") == "1":
    FLAGS += ["-Wall", "-Werror", "-Wno-unused-function"]


def levels() -> dict[str, list[str]]:
    """Instruction sets to build for, best first, with their flags."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"base": []}
    asked = os.environ.get("FASTRNN_BUILD", "all")
    if asked == "all":
        return X86_LEVELS
    if asked in X86_LEVELS:
        return {asked: X86_LEVELS[asked]}
    if asked != "native":
        raise SystemExit(
            f"FASTRNN_BUILD={asked}: expected all, native or one of {', '.join(X86_LEVELS)}"
        )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    has = set(next((line for line in lines if line.startswith("flags")), "").split())
    return {level: flags for level, flags in X86_LEVELS.items() if NEEDED[level] <= has}


BUILDS = [(level, bits) for level in levels() for bits in (32, 64)]


class BuildCore(build_ext):
    """Compiles the kernels to objects, as many at a time as there are processors, before it links the core."""

    def build_extension(self, ext: Extension) -> None:
        """Compile what is older than its source, and say what and for how long."""
        began = time.perf_counter()
        sources = {
            unit: extension.sources[0]
            for unit, extension in zip(UNITS, translated(UNITS), strict=True)
        }
        folder = Path("build/kernels")
        # Only float32 has numbers of fewer bits.
        objects = [
            Kernel(unit, source, level, bits, folder)
            for unit, source in sources.items()
            for level, bits in BUILDS
            if unit != "quantized" or bits == 32
        ]
        old = [kernel for kernel in objects if not kernel.is_new()]
        if old:
            print(f"compiling {len(old)} of {len(objects)} kernels", file=sys.stderr, flush=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for number, kernel in enumerate(pool.map(self.compile_kernel, old), 1):
                    passed = time.perf_counter() - began
                    print(
                        f"{number}/{len(old)} {kernel.name}, {passed:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
        ext.extra_objects = [str(kernel.path) for kernel in objects]
        self.force = self.force or bool(old)
        super().build_extension(ext)

    def compile_kernel(self, kernel: "Kernel") -> "Kernel":
        """Compile one object."""
        kernel.path.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.compiler.compiler_so, *kernel.options, "-c", kernel.source, "-o"]
        subprocess.run([*command, str(kernel.path)], check=True)
        kernel.path.with_suffix(".txt").write_text(str(kernel.options))
        return kernel


class Kernel:
    """One unit of kernels for one instruction set and number type."""

    def __init__(self, unit: str, source: str, level: str, bits: int, folder: Path) -> None:
        self.source, self.name = source, f"{unit}_{level}_f{bits}"
        self.path = folder / f"{self.name}.o"
        macros = {
            "FASTRNN_REAL_BITS": bits,
            "FASTRNN_BUILD": f"_{level}_f{bits}",
            # Cython has a variable for each module, which no other object may have, too.
            f"__pyx_module_is_main_fastrnn__kernels__{unit}": f"is_main_{self.name}",
        }
        self.options = [
            "-fPIC",
            *INCLUDES,
            *(f"-D{name}={value}" for name, value in macros.items()),
            *FLAGS,
            *X86_LEVELS[level],
        ]

    def is_new(self) -> bool:
        """Whether the object was made of what the files hold now, and with these options."""
        options = self.path.with_suffix(".txt")
        if not options.exists() or options.read_text() != str(self.options):
            return False
        used = [Path(self.source), *KERNELS.glob("*.h")]
        return all(path.stat().st_mtime <= self.path.stat().st_mtime for path in used)


def translated(units: list[str]) -> list[Extension]:
    """Translate units to C where they, or what they cimport, have changed."""
    found = cythonize(
        [
            Extension(f"fastrnn.kernels.{unit}", [(KERNELS / f"{unit}.pyx").as_posix()])
            for unit in units
        ],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
    )
    return sorted(found, key=lambda extension: units.index(extension.name.rpartition(".")[2]))


INCLUDES = [
    f"-I{KERNELS}",
    f"-I{numpy.get_include()}",
    f"-I{sysconfig.get_paths()['include']}",
]

core = Extension(
    "fastrnn._core",
    ["fastrnn/_core.pyx"],
    include_dirs=[str(KERNELS), numpy.get_include()],
    define_macros=[
        (
            "FASTRNN_BUILDS",
            " ".join(f"FASTRNN_BUILD({level}, {bits})" for level, bits in BUILDS),
        ),
        ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
    ],
    extra_compile_args=FLAGS,
    extra_link_args=["-fopenmp", "-Wl,--gc-sections"],
    depends=[
        "fastrnn/_core.pyx",
        *(str(path) for path in KERNELS.rglob("*") if path.suffix in (".pyx", ".pxd", ".h")),
    ],
)
setup(
    ext_modules=cythonize([core], build_dir="build/cython", compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildCore},
)
