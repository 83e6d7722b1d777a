"""Mutation test: change one sign or constant in a scratch copy and see whether the tests notice.

    python tools/mutate.py            # all mutations; prints the survivors
    python tools/mutate.py divergences tiled

Each mutation replaces the first occurrence of a text in a file. The tests that should fail are
named with the file; the run stops at the first failure.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "fmicl_core/"
TORCH = "backends/fmicl_torch/"
DIVERGENCES = ["tests/core/test_divergences.py"]
OBJECTIVE = ["tests/core/test_objective.py", "tests/core/test_reference.py"]
VALUES = ["tests/backends/test_values.py", "tests/backends/test_torch_specifics.py"]

#: file, tests, [(old, new)].
MUTATIONS = [
    (CORE + "divergences.py", DIVERGENCES, [
        ("return ops.exp(t - 1.0)", "return ops.exp(t + 1.0)"),
        ("return L + 1.0", "return L - 1.0"),
        ("return LOG2 - ops.softplus(-L)", "return LOG2 - ops.softplus(L)"),
        ("return ops.softplus(L) - LOG2", "return ops.softplus(L) + LOG2"),
        ("ops.sum_log(v) - LOG2", "ops.sum_log(v) + LOG2"),
        ("u / v", "1.0 / v"),
        ("ops.relu(0.5 * t + 1.0) ** 2 - 1.0", "(0.5 * t + 1.0) ** 2 - 1.0"),
        ("return square - 1.0, 2.0 * square", "return square - 1.0, square"),
        ("return 1.0 / (1.0 - t) ** 2", "return 1.0 / (1.0 - t)"),
        ("return root - 1.0, 0.5 * root", "return root - 1.0, root"),
        ("return 0.5 * ops.exp(-0.5 * L)", "return 0.5 * ops.exp(0.5 * L)"),
        ("0.0 if self.order < 1.0 else math.inf", "math.inf"),
        ("+ 1.0 / (self.order - 1.0)", "- 1.0 / (self.order - 1.0)"),
        ("(8.0 - 8.0 * w) * square", "(8.0 + 8.0 * w) * square"),
        ("w *= -8.0", "w *= 8.0"),
        ("(2.0 * w - 1.0) * (3.0 - 2.0 * w)", "(2.0 * w - 1.0) * (3.0 + 2.0 * w)"),
        ("for _ in range(5)", "for _ in range(1)"),
        ("return u - 1.0 + L, u + 1.0", "return u - 1.0 + L, u - 1.0"),
        ("return -1.0 - ops.log(-t)", "return 1.0 - ops.log(-t)"),
        ("return -2.0 * ops.expm1(-L)", "return 2.0 * ops.expm1(-L)"),
        ("suitable: ClassVar[bool] = False", "suitable: ClassVar[bool] = True"),
    ]),
    (CORE + "similarities.py", OBJECTIVE, [
        ("return rate, -0.5 * rate", "return rate, 0.5 * rate"),
        ("math.log(self.mu)", "self.mu"),
        ("return -2.0, 1.0, 0.0", "return -2.0, 1.0, 1.0"),
        ("(-0.5 / self.scale)", "(-1.0 / self.scale)"),
        ("return -1.0 / (d2 + self.scale**2)", "return -1.0 / (d2 + self.scale)"),
        ("low < -reach <= reach < high", "low < -reach <= reach"),
        ("return 1.0 / self.temperature, 0.0, 0.0", "return self.temperature, 0.0, 0.0"),
    ]),
    (CORE + "objective.py", OBJECTIVE, [
        ('Block("x", "y", 0.5)', 'Block("x", "x", 0.5)'),
        ('Block("x", "x", 0.5), Block("y", "y", 0.5)', 'Block("x", "x", 1.0)'),
        ("(a, 0.0, c + 2.0 * b)", "(a, 0.0, c + b)"),
    ]),
    (CORE + "reference.py", OBJECTIVE, [
        ("-alignment + objective.alpha", "alignment + objective.alpha"),
        ("np.fill_diagonal(counts, 0.0)", "pass"),
        ("2 * b * weight.sum(axis=0)", "b * weight.sum(axis=0)"),
        ("grad - unit *", "grad + unit *"),
    ]),
    (TORCH + "ops.py", VALUES, [
        ("threshold=50.0", "threshold=2.0"),
        ("len(x) // 16 * 16", "len(x) // 16 * 15"),
        ("[1:].view(n - 1, n + 1)[:, :-1]", "[1:].view(n - 1, n + 1)[:, 1:]"),
        ("return torch.expm1(x.detach())", "return torch.exp(x.detach())"),
        ("x.detach().abs()", "x.abs().detach() + 1.0"),
    ]),
    (TORCH + "dense.py", VALUES, [
        ("a * (x * y).sum(dim=1) + c", "a * (x * y).sum(dim=1) - c"),
        ("z + b * (left", "z - b * (left"),
        ("total + block.share", "total + 1.0"),
        ("if block.skips_diagonal", "if False"),
    ]),
    (TORCH + "tiled.py", VALUES, [
        ("i if right is None else 0", "0"),
        ("skips_diagonal and i == j", "False"),
        ("(len(others) - skips_diagonal)", "len(others)"),
        ("self.scaled = self.a * left", "self.scaled = left"),
        ("self.bias += self.b", "self.bias -= self.b"),
        ("alpha=2 if mirrored else 1", "alpha=1"),
        ("mirrored or not self.symmetric)", "mirrored)"),
        ("addmm_(weight.T, self.left[i])", "addmm_(weight.T, self.left[i], alpha=-1.0)"),
        ("2.0 if self.symmetric else 1.0", "1.0"),
        ("value=2.0 * self.b * scale", "value=self.b * scale"),
        ("weight = weight.fill_diagonal_(0.0)", "pass"),
        ("return grad_mean * grad_left", "return grad_left"),
        ("if torch.is_grad_enabled() and", "if False and"),
    ]),
    (TORCH + "loss.py", VALUES, [
        ("objective.alpha * uniformity - alignment", "objective.alpha * uniformity + alignment"),
        ('"dense" if len(x)', '"tiled" if len(x)'),
    ]),
]  # fmt: skip


def survives(file: str, tests: list[str], old: str, new: str, scratch: Path) -> bool:
    """Whether the tests pass in spite of the mutation."""
    path = scratch / file
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{file} no longer has {old!r}: bring tools/mutate.py up to date")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    folders = [scratch, scratch / "backends", scratch / "integrations"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "CI": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests]
    try:
        run = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, check=False
        )
    finally:
        path.write_text(text, encoding="utf-8")
    if run.returncode not in (0, 1):
        raise SystemExit(run.stdout.decode()[-2000:])
    return run.returncode == 0


def main() -> None:
    chosen = sys.argv[1:]
    total, survivors = 0, []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "demo", "__pycache__")
        shutil.copytree(ROOT, scratch, ignore=ignored)
        for file, tests, changes in MUTATIONS:
            if chosen and Path(file).stem not in chosen:
                continue
            for old, new in changes:
                total += 1
                alive = survives(file, tests, old, new, scratch)
                survivors += [f"{file}: {old} -> {new}"] * alive
                print("SURVIVED" if alive else "caught  ", file, "|", old, "->", new, flush=True)
    print(f"{total} mutations, {len(survivors)} survivors")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
