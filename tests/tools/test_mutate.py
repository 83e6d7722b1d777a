"""Mutations change what is computed, and leave texts and hints alone."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''"""A sum - of 2 terms."""


def scaled(x: int | None, by: float = 0.0) -> int | float:
    """x * by."""
    if x is None and by:
        raise ValueError(f"{1 + 1} > 0")
    check(x)
    return -x * max(by, 40) if by < 9.5 else -(
        x  # ä
    )
'''
EXPECTED = {
    (4, "by: float = (1.0)"), (6, "if (not (x is None and by)):"), (6, "if (x is None or by):"),
    (6, "if (x is not None) and by:"), (7, "pass"), (8, "pass"),
    (9, "return (-x if by < 9.5 else -x * max(by, 40))"), (9, "return (-x / max(by, 40)) if"),
    (9, "return (x) * max(by, 40) if"), (9, "return -x * (min)(by, 40) if"),
    (9, "if (by <= 9.5) else"), (9, "else (x)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mutate():
    return importlib.import_module("mutate")


def test_each_sign_constant_and_branch_is_changed_and_nothing_else(mutate, tmp_path):
    file = tmp_path / "scaled.py"
    file.write_text(SOURCE, encoding="utf-8")
    found = list(mutate.mutations(file))
    assert len(found) == len(EXPECTED)
    for line, text in EXPECTED:
        shown = [mutation.shown(SOURCE.encode()) for mutation in found if mutation.line == line]
        (before,) = [before for before, after in shown if text in after]
        assert before.startswith(f"    - {SOURCE.splitlines()[line - 1].strip()}")


def test_mutations_of_the_library_are_other_programs(mutate):
    path = ROOT / "fmicl_core" / "pairs.py"
    source = path.read_bytes()
    texts = [source, *(mutation.applied(source) for mutation in mutate.mutations(path))]
    assert len({ast.dump(ast.parse(text)) for text in texts}) == len(texts) > 9


def test_every_package_with_code_has_tests_that_judge_its_mutations(mutate):
    files = [path for folder in mutate.FOLDERS for path in (ROOT / folder).glob("fmicl*/**/*.py")]
    mutated = {path for path in files if any(mutate.mutations(path))}
    packages = {next(part for part in path.parts if part.startswith("fmicl_")) for path in mutated}
    assert packages == set(mutate.JUDGES)
