"""Mutation test: change one sign, constant or branch in a copy and see whether the tests notice.

    python tools/mutate.py fmicl_core                                   # 20 of its mutations
    python tools/mutate.py backends/fmicl_torch/tiled.py --sample 0     # all of a file's
    python tools/mutate.py fmicl_jax --sample 40 --seed 1

Mutations are read off the syntax tree; docstrings, type hints and messages have none. A survivor is
printed with its line before and after: either a test is missing, or the change means the same.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "backends", "integrations")
#: The tests that should notice a mutation of a package, as pytest is told them.
JUDGES = {
    "fmicl_core": "tests/core tests/backends/test_bad_input.py -k not(packaging|jax|tensorflow)",
    "fmicl_torch": "tests/backends -k torch",
    "fmicl_jax": "tests/backends -k jax",
    "fmicl_tensorflow": "tests/backends -k tensorflow",
    "fmicl_recipes": "tests/integrations -k recipes|test_data|evaluation|test_run|embed|plots"
    "|compare",
    "fmicl_lightning": "tests/integrations -k lightning",
    "fmicl_flax": "tests/integrations -k flax",
    "fmicl_keras": "tests/integrations -k keras",
    "fmicl_sentence_transformers": "tests/integrations -k sentence_transformers|simcse",
    "fmicl_check": "tests/integrations -k test_check",
    "fmicl_cli": "tests/integrations -k test_cli",
}

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
#: Numbers up to this one mean something; larger ones are mostly sizes, of which others would do.
SMALL = 8


class Mutation(NamedTuple):
    """Bytes of a file, from start to end, and what takes their place."""

    path: Path
    line: int
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        """The mutated file."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def shown(self, source: bytes) -> tuple[str, str]:
        """The lines in question before and after."""
        first = source.rfind(b"\n", 0, self.start) + 1
        rest = source.find(b"\n", self.end) - len(source)
        before, after = source[first:rest].decode(), self.applied(source)[first:rest].decode()
        return f"    - {before.strip()}", f"    + {after.strip()}"


def changed(node: ast.AST) -> str | None:
    """The source of the node after its mutation, or None where it has none."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in SWAPS:
            node.op = SWAPS[type(node.op)]()
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            node.ops = [SWAPS[type(op)]()]
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            return f"({ast.unparse(operand)})"
        case ast.IfExp():
            node.body, node.orelse = node.orelse, node.body
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)) if value <= SMALL:
            node.value = 1 - value if value < 2 else value + 1
        case ast.Constant(value=float(value)) if value <= SMALL:
            node.value = 2.0 * value or 1.0
        case ast.Name(id=name) if name in NAMES:
            node.id = NAMES[name]
        case ast.Attribute(attr=name) if name in NAMES:
            node.attr = NAMES[name]
        case ast.Raise() | ast.Expr(value=ast.Call()):
            return "pass"
        case _:
            return None
    text = ast.unparse(node)
    return text if isinstance(node, ast.stmt) else f"({text})"


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, except hints, messages and texts."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or isinstance(node, ast.JoinedStr | ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from parts(child)


def mutations(path: Path) -> Iterator[Mutation]:
    """Every mutation of a file."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in parts(ast.parse(source)):
        if isinstance(node, ast.If | ast.While):
            where, text = node.test, f"(not ({ast.unparse(node.test)}))"
        elif isinstance(node, ast.expr | ast.stmt) and (new := changed(node)):
            where, text = node, new
        else:
            continue
        start = starts[where.lineno - 1] + where.col_offset
        end = starts[where.end_lineno - 1] + where.end_col_offset
        yield Mutation(path, where.lineno, start, end, text)


def chosen(target: str) -> tuple[str, list[Mutation]]:
    """The package that the target, a package or a file, belongs to, and the target's mutations."""
    places = [Path(target), *(ROOT / folder / target for folder in FOLDERS)]
    found = next((place.resolve() for place in places if place.exists()), None)
    package = next((part for part in found.parts[::-1] if part in JUDGES), None) if found else None
    if not found or not package:
        raise SystemExit(f"{target} is neither one of {', '.join(JUDGES)} nor a file in one")
    files = [found] if found.is_file() else sorted(found.rglob("*.py"))
    return package, [mutation for file in files for mutation in mutations(file)]


def passes(package: str, scratch: Path, limit: float | None = None) -> bool:
    """Whether the package's tests pass in the copy, within so many seconds."""
    paths = os.pathsep.join(str(scratch / place) for place in FOLDERS)
    # Bytecode is told from stale by whole seconds, in which two mutations can fall.
    settings = {"PYTHONPATH": paths, "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow"]
    command += [word.replace("|", " or ") for word in JUDGES[package].split()]
    try:
        run = subprocess.run(command, cwd=scratch, env={**os.environ, **settings},
                             capture_output=True, text=True, timeout=limit)  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    if limit is None and run.returncode:
        raise SystemExit(f"{run.stdout[-2000:]}\nThe tests fail without a mutation.")
    return run.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="a package, or one of its files")
    parser.add_argument("--sample", type=int, default=20, help="how many; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    package, found = chosen(options.target)
    count = min(options.sample or len(found), len(found))
    sample = sorted(random.Random(options.seed).sample(found, count))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".*", "runs", "demo", "build", "dist", "__pycache__")
        shutil.copytree(ROOT, scratch, ignore=ignored)
        begin = time.perf_counter()
        passes(package, scratch)
        limit = 60.0 + 4.0 * (time.perf_counter() - begin)
        survivors = 0
        for number, mutation in enumerate(sample, 1):
            file = mutation.path.relative_to(ROOT)
            source = (scratch / file).read_bytes()
            (scratch / file).write_bytes(mutation.applied(source))
            alive = passes(package, scratch, limit)
            (scratch / file).write_bytes(source)
            survivors += alive
            word = "SURVIVED" if alive else "caught  "
            print(f"{number}/{count} {word} {file}:{mutation.line}", flush=True)
            if alive:
                print(*mutation.shown(source), sep="\n", flush=True)
    print(f"{count} of {len(found)} mutations, {survivors} survived")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
