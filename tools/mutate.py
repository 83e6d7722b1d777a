"""Mutation test: change one sign or constant in a scratch copy and see whether the tests notice.

    python tools/mutate.py                       # all mutations; prints the survivors
    python tools/mutate.py fmicl_jax             # those of files whose path has one of the words
    python tools/mutate.py divergences tiled

Each mutation replaces the first occurrence of a text in a file. The tests that should fail are
named with the file; the run stops at the first failure.

Left out, because nothing here can tell them apart: the precision of JAX's matrix products, which a
CPU ignores.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "fmicl_core/"
TORCH, JAX = "backends/fmicl_torch/", "backends/fmicl_jax/"
TENSORFLOW = "backends/fmicl_tensorflow/"
DIVERGENCES = ["tests/core/test_divergences.py", "tests/core/test_objective.py"]
OBJECTIVE = ["tests/core/test_objective.py", "tests/core/test_reference.py"]


def of(framework: str, first: str = "values") -> list[str]:
    """The tests of one backend, first those that are most likely to notice."""
    files = ("values", "properties", "numerics", "related", "info_nce", "bad_input",
             f"{framework}_specifics")  # fmt: skip
    ordered = sorted(files, key=lambda name: not name.endswith(first))
    return [*(f"tests/backends/test_{name}.py" for name in ordered), "-k", framework]


TRITON_TESTS = ["tests/backends/test_torch_kernel.py", "-k", "interpreted"]
PALLAS_TESTS = ["tests/backends/test_jax_kernel.py"]
DEVICES = [
    "tests/backends/test_jax_specifics.py",
    "tests/backends/test_distributed.py",
    "-k",
    "jax",
]

#: file, tests, [(old, new)].
MUTATIONS = [
    (CORE + "divergences.py", DIVERGENCES, [
        ("return ops.exp(t - 1.0)", "return ops.exp(t + 1.0)"),
        ("return L + 1.0", "return L - 1.0"),
        ("return LOG2 - ops.softplus(-L)", "return LOG2 - ops.softplus(L)"),
        ("return ops.softplus(L) - LOG2", "return ops.softplus(L) + LOG2"),
        ("return ops.sum_log(v), u / v", "return 2.0 * ops.sum_log(v), u / v"),
        ("u / v", "1.0 / v"),
        ("ops.relu(0.5 * t + 1.0) ** 2 - 1.0", "(0.5 * t + 1.0) ** 2 - 1.0"),
        ("return square, 2.0 * square", "return square, square"),
        ("return 1.0 / (1.0 - t) ** 2", "return 1.0 / (1.0 - t)"),
        ("return root, 0.5 * root", "return root, root"),
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
    ]),
    (CORE + "pairwise.py", OBJECTIVE, [
        ("(a, 0.0, c + 2.0 * b)", "(a, 0.0, c + b)"),
    ]),
    (CORE + "reference.py", OBJECTIVE, [
        ("-alignment + objective.alpha", "alignment + objective.alpha"),
        ("counts *= block.share / counts.sum()", "counts *= 1.0 / counts.sum()"),
        ("2 * b * weight.sum(axis=0)", "b * weight.sum(axis=0)"),
        ("grad - unit *", "grad + unit *"),
    ]),
    (TORCH + "ops.py", of("torch", "numerics"), [
        ("threshold=50.0", "threshold=2.0"),
        ("len(x) // 16 * 16", "len(x) // 16 * 15"),
        ("[1:].view(n - 1, n + 1)[:, :-1]", "[1:].view(n - 1, n + 1)[:, 1:]"),
        ("return torch.expm1(x.detach())", "return torch.exp(x.detach())"),
        ("x.detach().abs()", "x.abs().detach() + 1.0"),
    ]),
    (TORCH + "dense.py", of("torch"), [
        ("a * (x * y).sum(dim=1) + c", "a * (x * y).sum(dim=1) - c"),
        ("z + b * (left", "z - b * (left"),
        ("total + block.share", "total + 1.0"),
        ("elif block.skips_diagonal", "elif False"),
    ]),
    (TORCH + "tiled.py", of("torch"), [
        ("i if right is None else 0", "0"),
        ("skips_diagonal and i == j", "False"),
        ("(len(others) - skips_diagonal)", "len(others)"),
        ("alpha=self.a)", "alpha=1.0)"),
        ("self.bias += self.b", "self.bias -= self.b"),
        ("alpha=2 if mirrored else 1", "alpha=1"),
        ("mirrored or self.columns)", "mirrored)"),
        ("addmm_(weight.T, self.left[i])", "addmm_(weight.T, self.left[i], alpha=-1.0)"),
        ("2.0 if right is None else 1.0", "1.0"),
        ("value=2.0 * b * by", "value=b * by"),
        ("weight = weight.fill_diagonal_(0.0)", "pass"),
        ("differentiated_once(upstream * grad_left", "differentiated_once(grad_left"),
        ("along((grad_left, left), (grad_right, right))", "along((grad_left, left))"),
    ]),
    (TORCH + "transforms.py", ["tests/backends/test_torch_transforms.py"], [
        ("return _Once.apply(value, *of)", "return value"),
        ("a.movedim(d, 0)", "a"),
        ("unpack_dual(x).tangent is not None", "unpack_dual(x).tangent is None"),
    ]),
    (TORCH + "registry.py", ["tests/backends/test_torch_registry.py"], [
        (', normalize={pairwise.normalize})"', ', normalize=True)"'),
        ("while KNOWN.setdefault(name, pairwise) != pairwise", "while False"),
        ("and not node.args", ""),
    ]),
    (TORCH + "tiled_related.py", of("torch", "info_nce"), [
        ("sums[block.right].add(j, s, dim=0)", "pass"),
        ("= peaks - positive + logs", "= peaks + positive + logs"),
        ("sub_(log[block.left][i, None])", "sub_(log[block.left][i, None] + 1.0)"),
        ("weight += s", "weight -= s"),
        ("addmm_(weight.T, rows[block.left][i])", "addmm_(weight.T, rows[block.right][i])"),
        ("-torch.sigmoid(margins)", "-torch.sigmoid(-margins)"),
        ('(("x", y), ("y", x))', '(("x", x), ("y", y))'),
        ("temperature * peaks.numel()", "temperature * len(x)"),
        ("left[i : i + tile] / temperature", "left[i : i + tile]"),
        ("i if block.symmetric else 0", "0"),
        ("block.skips_diagonal and i == j", "False"),
        ("both and not (block.symmetric and i == j)", "both"),
        ("torch.maximum(before, scores.amax(dim=dim))", "torch.maximum(before, 0.0 * before)"),
        ("* torch.exp(before - peak)", "* 1.0"),
        ("enabled=False):  # the", "enabled=True):  # the"),
        ("upstream * grad if want", "grad if want"),
    ]),
    (TORCH + "terms.py", of("torch"), [
        ("weight * uniformity - alignment", "weight * uniformity + alignment"),
    ]),
    (TORCH + "triton_kernel.py", TRITON_TESTS, [
        ("tl.abs(x) < 0.5", "tl.abs(x) < 3.0"),
        ("tl.abs(x) < 0.4", "tl.abs(x) < 3.0"),
        ("z = a * z + c", "z = a * z - c"),
        ("edge = (start + COLS > k)", "edge = (start > k)"),
        ("edge = edge | (", "edge = edge & ("),
        ("rows[:, None] < cols", "rows[:, None] <= cols"),
        ("rows[:, None] != cols", "rows[:, None] < cols"),
        ("tl.where(counts, penalty, 0.0)", "penalty"),
        ("tl.where(counts, weight, 0.0)", "weight"),
        ("weight = operand.to(tl.float32)", "pass"),
        ("mass += tl.sum(weight, 1)", "mass += tl.sum(weight, 0)"),
        ("(cols < k) & (chunk == 0)", "cols < k"),
        ("block * ROWS // COLS * COLS", "block * ROWS"),
        ("own = chunk * WIDTH", "own = chunk"),
    ]),
    (TORCH + "kernel.py", TRITON_TESTS, [
        ("(2.0 if triangle else 1.0)", "1.0"),
        ("if parts > 1 else grad_x[0]", "if parts > 2 else grad_x[0]"),
        ("mass_x.sum(dim=0) if biased", "mass_x[0] if biased"),
        ("bias_x = b *", "bias_x = -b *"),
        ("both and not launch.atomic", "False"),
        ('dtype == "float32" and not insisted', "not insisted"),
    ]),
    (JAX + "ops.py", of("jax", "numerics"), [
        ("jnp.exp(x) * tangent", "(_expm1(x) + 1.0) * tangent"),
        ("x.sum(axis=0).sum()", "x.sum(axis=0).mean()"),
        ("_sum(jnp.log(x))", "_sum(jnp.log1p(x))"),
        ("softplus=jax.nn.softplus", "softplus=jax.nn.relu"),
        ("stop_gradient(jnp.abs(x)", "stop_gradient(1.0 + jnp.abs(x)"),
        ("jnp.where(square == 0, 1.0, square)", "square + 1e-6"),
        ("(n - 1, n + 1)[:, :-1]", "(n - 1, n + 1)[:, 1:]"),
    ]),
    (JAX + "dense.py", of("jax"), [
        ("a * (x * y).sum(axis=1) + c", "a * (x * y).sum(axis=1) - c"),
        ("z + b * (square_lengths(left)", "z - b * (square_lengths(left)"),
        ("total + block.share", "total + 1.0"),
        ("off_diagonal(z) if skips_diagonal else z", "z"),
    ]),
    (JAX + "tiled.py", of("jax"), [
        ("total + block.share", "total + 1.0"),
        ("slope = slope + (gradient", "slope = slope - (gradient"),
        ("if symmetric else wanted", "if symmetric else wanted[::-1]"),
        ("(row < n) & (column < k)", "(row < n)"),
        ("(row < n) & (column < k)", "(column < k)"),
        ("(row < column) if symmetric", "(row <= column) if symmetric"),
        ("jnp.where(keep, slope, 0.0)", "slope"),
        ("jnp.where(keep, excess, 0.0)", "excess"),
        ("product(a * x, y.T) + c", "product(a * x, y.T) - c"),
        ("z = z + b *", "z = z - b *"),
        ("grad_rows.add(j, weight.T, x)", "grad_rows"),
        ("grad_columns.add(j, weight.T, x)", "grad_columns.add(j, weight.T, -x)"),
        ("(k - 1 if skips_diagonal else k)", "k"),
        ("2.0 if symmetric else 1.0", "1.0"),
        ("add(weight.sum(axis=1))", "add(weight.sum(axis=0))"),
        ("gradient += 2.0 * b", "gradient += b"),
        ("totals.sum() * scale", "totals.sum()"),
        ("i[i <= j], j[i <= j]", "i[i < j], j[i < j]"),
        ("edge = (bottom > n) | (last > k)", "edge = bottom > n"),
        ("edge |= (i", "edge &= (i"),
        ("    raise once_differentiable()", "    return primals, tangents"),
    ]),
    (JAX + "kernel.py", PALLAS_TESTS, [
        ('kernel.dtype == "float32" and not kernel.tf32', "False"),
        ('kernel.dtype == "float32" and not kernel.tf32', 'kernel.dtype == "float32"'),
        ("rows * width < MAX_ENTRIES", "rows * d < MAX_ENTRIES"),
        ("(*numbers, \"0\")[:2]", "(*numbers, \"0\")[1:]"),
        ("    why = why or _formulas_refused(pairwise)", "    pass"),
    ]),
    (JAX + "pallas_kernel.py", PALLAS_TESTS, [
        ("return total / pairs", "return total"),
        ("2.0 if symmetric else 1.0", "1.0"),
        ("2.0 * b * mass", "b * mass"),
        ("2.0 if triangle else 1.0", "1.0"),
        ("counts = column < program.k", "counts = column < program.k + 1"),
        ("counts &= row < column", "counts &= row <= column"),
        ("counts &= row != column", "counts &= row < column"),
        ("edge = end > program.k", "edge = end > program.k + tiles.columns"),
        ("edge |= (start", "edge &= (start"),
        ("jnp.where(counts, excess, 0.0)", "excess"),
        ("jnp.where(counts, weight, 0.0)", "weight"),
        ("z = a * z + c", "z = a * z - c"),
        ("biases[0][rows][:, None]", "biases[0][rows][None, :]"),
        ("return z + dot(left[rows, some]", "return dot(left[rows, some]"),
        ("weight.astype(jnp.float32).sum(axis=1)", "weight.astype(jnp.float32).sum(axis=0)"),
        ("            weight = weight.astype(operand)\n", ""),
        ("first = part * program.span", "first = part * tiles.columns"),
        ("+ tiles.columns - 1) // tiles.columns", ") // tiles.columns"),
        ("// tiles.columns * tiles.columns)", ")"),
        ("@pl.when(chunk == 0)", "@pl.when(chunk == 1)"),
        ("sums[1].sum(axis=0)[:n, :d]", "sums[1][0, :n, :d]"),
        ('if dtype == "bfloat16" else Precision.HIGH', 'if dtype != "float32" else Precision.HIGH'),
        ("return Precision.HIGHEST", "return Precision.HIGH"),
    ]),
    (JAX + "distributed.py", DEVICES, [
        ("if devices > 1:", "if True:"),
        ("if n > 1:", "if True:"),
        ("devices * n - 1", "devices * n"),
        ("-len(rows) * jax.lax.axis_index", "len(rows) * jax.lax.axis_index"),
    ]),
    (JAX + "related.py", of("jax", "related"), [
        ("axis=1) / temperature", "axis=1) * temperature"),
        ("-jnp.inf, s)", "0.0, s)"),
        ("exponent / 2.0", "exponent"),
        ("- 2.0 * product(x, x.T)", "+ 2.0 * product(x, x.T)"),
        ("-2.0 * s.diagonal()", "-s.diagonal()"),
    ]),
    (JAX + "tiled_related.py", of("jax", "info_nce"), [
        ("slope = slope + (gradients", "slope = slope - (gradients"),
        ("    raise once_differentiable()", "    return primals, tangents"),
        ("= self.peak - positive + log", "= self.peak + positive + log"),
        ("jnp.maximum(before, scores.max(axis=axis))", "jnp.maximum(before, 0.0 * before)"),
        ("* jnp.exp(before - peak)", "* 1.0"),
        ("add(j, scores, axis=0)", "add(j, 0.0 * scores, axis=0)"),
        ("-JAX.sigmoid(softmax.margin)", "-JAX.sigmoid(-softmax.margin)"),
        ('{"x": pull * rows["y"]', '{"x": pull * rows["x"]'),
        ("temperature * len(softmaxes) * n", "temperature * n"),
        ("    if both:\n        weight = weight +", "    if both:\n        weight = weight -"),
        ("add(j, weight.T, tiles", "add(j, -weight.T, tiles"),
        ("jnp.where(keep, s, -jnp.inf)", "s"),
        ("product(left[i] / temperature", "product(left[i]"),
    ]),
    (JAX + "terms.py", of("jax"), [
        ("astype(excess.dtype) - alignment", "astype(excess.dtype) + alignment"),
    ]),
    (TENSORFLOW + "ops.py", of("tensorflow", "numerics"), [
        ("x <= 0.0", "x <= 1.0"),
        ("tf.reduce_sum(tf.linalg", "tf.reduce_mean(tf.linalg"),
        ("_sum(tf.math.log(x))", "_sum(tf.math.log1p(x))"),
        ("softplus=tf.math.softplus", "softplus=_relu"),
        ("tf.reduce_max(tf.abs(x)", "1.0 + tf.reduce_max(tf.abs(x)"),
        ("tf.where(square == 0.0, tf.ones_like(square), square)", "square + 1e-6"),
        ("[n - 1, n + 1])[:, :-1]", "[n - 1, n + 1])[:, 1:]"),
    ]),
    (TENSORFLOW + "dense.py", of("tensorflow"), [
        ("axis=1) + c", "axis=1) - c"),
        ("z + b * (square_lengths(left)", "z - b * (square_lengths(left)"),
        ("total + block.share", "total + 1.0"),
        ("off_diagonal(z) if skips_diagonal else z", "z"),
    ]),
    (TENSORFLOW + "inputs.py", of("tensorflow", "specifics"), [
        ("width >= 1", "width >= 0"),
        ("rows >= least", "rows >= 1"),
        ("tf.shape(bank)[0] >= 1", "tf.shape(bank)[0] >= 0"),
    ]),
    (TENSORFLOW + "tiled.py", of("tensorflow"), [
        ("total + block.share", "total + 1.0"),
        ("return upstream * gradient, backward", "return gradient, backward"),
        ("        raise once_differentiable()", "        return upstream, gradient, side"),
        ("(at < self.n) & (beside < self.k)", "(at < self.n)"),
        ("(at < self.n) & (beside < self.k)", "(beside < self.k)"),
        ("(at < beside) if self.symmetric", "(at <= beside) if self.symmetric"),
        ("tf.where(keep, slope, zero)", "slope"),
        ("tf.where(keep, excess, zero)", "excess"),
        ("edge = (bottom > self.n) | (last > self.k)", "edge = bottom > self.n"),
        ("edge |= (i", "edge &= (i"),
        ("transpose_b=True) + c", "transpose_b=True) - c"),
        ("z += b * (square_lengths(x)", "z -= b * (square_lengths(x)"),
        ("add(j, tf.transpose(weight), x)", "add(j, tf.transpose(weight), -x)"),
        ("start = i if self.symmetric", "start = tf.zeros_like(i) if self.symmetric"),
        ("k - 1 if skips_diagonal else k", "k"),
        ("2.0 if symmetric else 1.0", "1.0"),
        ("tf.reduce_sum(weight, axis=1)", "tf.reduce_sum(weight, axis=0)"),
        ("gradient += 2.0 * b", "gradient += b"),
    ]),
    (TENSORFLOW + "related.py", of("tensorflow", "related"), [
        ("axis=1) / temperature", "axis=1) * temperature"),
        ("-math.inf", "0.0"),
        ("exponent / 2.0", "exponent"),
        ("- 2.0 * tf.matmul(x, x", "+ 2.0 * tf.matmul(x, x"),
        ("- 2.0 * aligned", "- aligned"),
    ]),
    (TENSORFLOW + "tiled_related.py", of("tensorflow", "info_nce"), [
        ("axis=2) / scores.temperature", "axis=2)"),
        ("grid.left[i] / self.temperature", "grid.left[i]"),
        ("tf.where(grid.counted(i, j), s, never)", "s"),
        ("add(j, s, axis=0)", "add(j, 0.0 * s, axis=0)"),
        ("= self.peak - positive + log", "= self.peak + positive + log"),
        ("tf.maximum(before, tf.reduce_max(scores, axis=axis))", "tf.nn.relu(before)"),
        ("* tf.exp(before - peak)", "* 1.0"),
        ("-TENSORFLOW.sigmoid(softmax.margin)", "-TENSORFLOW.sigmoid(-softmax.margin)"),
        ('{"x": pull * scores.rows["y"]', '{"x": pull * scores.rows["x"]'),
        ("len(softmaxes) * n", "n"),
        ("weight += tf.exp", "weight -= tf.exp"),
        ("add(j, tf.transpose(weight)", "add(j, -tf.transpose(weight)"),
    ]),
    (TENSORFLOW + "terms.py", of("tensorflow"), [
        ("weight * uniformity - alignment", "weight * uniformity + alignment"),
    ]),
]  # fmt: skip


def survives(file: str, tests: list[str], old: str, new: str, scratch: Path) -> bool:
    """Whether the tests pass in spite of the mutation."""
    path = scratch / file
    text = path.read_text(encoding="utf-8")
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
    for file, _, changes in MUTATIONS:
        text = (ROOT / file).read_text(encoding="utf-8")
        for old, _ in changes:
            if old not in text:
                raise SystemExit(f"{file} no longer has {old!r}: bring tools/mutate.py up to date")
    total, survivors = 0, []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv*", ".git", "runs", "demo", "__pycache__")
        shutil.copytree(ROOT, scratch, ignore=ignored)
        for file, tests, changes in MUTATIONS:
            if chosen and not any(word in file for word in chosen):
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
