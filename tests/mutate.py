"""Do the sampled sweeps find the faults that all cases find? Run by hand:

    python -m tests.mutate fastrnn/reference.py tests/test_layers_against_keras.py --count 20

Puts one fault at a time into a copy of a module: another comparison, a number one off, a condition the other way round,
a statement left out. Each runs under `--sweep quick` and `--sweep sample`; what no sample notices runs in all cases,
which hold those of the sample.
"""

import argparse
import ast
import collections
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("fastrnn", "tests", "benchmarks", "examples", "docs", "pyproject.toml", "README.md")
# A mutant that never ends is found.
MOST_SECONDS = 900
OTHERS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def mutations(node):
    """Yield (what, change) for each fault that `change()` makes in a node."""

    def change(owner, name, value):
        return lambda: setattr(owner, name, value)

    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHERS:
        yield "comparison", change(node, "ops", [OTHERS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OTHERS:
        yield "operator", change(node, "op", OTHERS[type(node.op)]())
    if isinstance(node, ast.Constant):
        if type(node.value) is bool:
            yield "flag", change(node, "value", not node.value)
        elif type(node.value) in (int, float):
            yield "number", change(node, "value", node.value + 1)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition", change(node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.IfExp):
        yield "branches", lambda: vars(node).update(body=node.orelse, orelse=node.body)


def with_fault(source, place):
    """Return the source of a module with one of its faults."""
    tree = ast.parse(source)
    _, _, change = faults(tree)[place]
    change()
    return ast.unparse(ast.fix_missing_locations(tree))


def faults(tree):
    """Return (line, what, change) of each fault that a module's functions can have; one source, one order."""
    found = []
    # Functions inside functions are walked with these.
    holders = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for function in (part for holder in holders for part in holder.body):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in (part for statement in function.body for part in ast.walk(statement)):
            line = getattr(node, "lineno", 0)
            found += [(line, what, change) for what, change in mutations(node)]
        for node in ast.walk(function):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                found += [_without(body, statement) for statement in body if _may_go(statement)]
    return found


def _may_go(statement):
    documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign) and not documents


def _without(body, statement):
    def change():
        body[body.index(statement)] = ast.Pass()

    return statement.lineno, "statement", change


def outcome(folder, tests, sweep):
    """Return whether the tests of a folder find something wrong; the bytecode of an earlier mutant is not read."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=no",
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, f"--sweep={sweep}", *tests],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", help="file of the package, relative to the repository")
    parser.add_argument("tests", nargs="+", help="its tests")
    parser.add_argument("--count", type=int, default=20, help="how many faults")
    parser.add_argument("--seed", default="0", help="what draws them")
    options = parser.parse_args()
    source = (ROOT / options.module).read_text()
    every = faults(ast.parse(source))
    drawn = random.Random(options.seed).sample(range(len(every)), min(options.count, len(every)))
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            copy_of = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy_of(ROOT / part, folder / part)
        if any(outcome(folder, options.tests, sweep) for sweep in ("quick", "sample")):
            raise SystemExit("the tests fail without any fault")
        for place in sorted(drawn):
            line, what, _ = every[place]
            (folder / options.module).write_text(with_fault(source, place))
            quick = outcome(folder, options.tests, "quick")
            sample = outcome(folder, options.tests, "sample")
            whole = sample or outcome(folder, options.tests, "all")
            counts.update({"quick": quick, "sample": sample, "all": whole})
            missed = "" if sample == whole else "  <- only in all cases"
            print(
                f"{options.module}:{line} {what}: {quick=} {sample=} {whole=}{missed}", flush=True
            )
    print(
        f"{options.module}: of {len(drawn)} faults quick finds {counts['quick']}, sample {counts['sample']}, "
        f"all cases {counts['all']}"
    )


if __name__ == "__main__":
    main()
