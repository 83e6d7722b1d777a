"""The examples of docs/coming-from.md: `ours` is `theirs`, value and gradient.

What runs is what stands there, a paragraph of a block at a time. It may use what the paragraphs
before it in its section import and set up, and the arrays and encoders that `leaves_of` and
`by_torch` name.
"""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
N, D = 12, 6
#: Three classes and more of two rows at least, in the first N rows, too.
LABELS = np.arange(2 * N) % 5
#: Relative error of the value, and of a gradient by its norm.
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
FRAMEWORKS = {"fmicl_jax": "jax", "fmicl_tensorflow": "tensorflow"}
OWN = ("torch", "fmicl", "jax", "tensorflow")


class Example(NamedTuple):
    """A paragraph of code that compares, or makes a `loss`; before it what the section has else."""

    name: str
    code: str
    compares: bool

    @property
    def modules(self):
        return re.findall(r"^(?:from|import) (\w+)", self.code, re.MULTILINE)

    @property
    def framework(self):
        return next((FRAMEWORKS[m] for m in self.modules if m in FRAMEWORKS), "torch")

    @property
    def libraries(self):
        """What has to be there, the framework first."""
        text = ["sentence_transformers"] * ("fmicl_sentence_transformers" in self.modules)
        return [self.framework, *text, *(m for m in self.modules if not m.startswith(OWN))]


def read_examples():
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, before, number = section.partition("\n")[0], "", 0
        for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
            for code in block.split("\n\n"):
                compares = "theirs = " in code
                assert compares == ("ours = " in code)
                if compares or "loss = " in code:
                    number += 1
                    found.append(Example(f"{title} {number}", f"{before}\n{code}", compares))
                else:
                    before += f"\n{code}"
    return found


EXAMPLES = read_examples()


def leaves_of(dtype):
    """Features by their names on the page, and a scale and a bias that learn."""
    draw = np.random.default_rng(0).normal
    x = draw(size=(N, D))
    leaves = {"x": x, "y": x + 0.7 * draw(size=(N, D)), "hard": x + draw(size=(N, D)),
              "z": draw(size=(2 * N, D)), "queue": draw(size=(2 * N, D)),
              "scale": 7.0, "bias": -4.0}  # fmt: skip
    return {name: np.asarray(value, dtype) for name, value in leaves.items()}


def results_of(example, scope):
    """Theirs and ours, or twice the loss where there is none of theirs."""
    exec(compile(example.code, f"coming-from.md, {example.name}", "exec"), scope)
    return [scope[name] for name in (("theirs", "ours") if example.compares else ("loss", "loss"))]


def by_torch(example, arrays):
    import torch

    leaves = {k: torch.from_numpy(v).requires_grad_() for k, v in arrays.items()}
    encoder = torch.nn.Linear(D, D, bias=False, dtype=leaves["x"].dtype)
    scope = {
        **leaves,
        "queue": leaves.pop("queue").detach(),
        "labels": torch.from_numpy(LABELS),
        "encoder": encoder,
        "model": torch.nn.Sequential(torch.nn.Identity()),
    }
    leaves["encoder"] = encoder.weight
    for value in results_of(example, scope):
        if isinstance(value, torch.nn.Module):
            value = value.compute_loss_from_embeddings([leaves["x"], leaves["y"]])
        grads = torch.autograd.grad(
            value, list(leaves.values()), retain_graph=True, materialize_grads=True
        )
        yield value.item(), {k: g.numpy() for k, g in zip(leaves, grads, strict=True)}


def by_jax(example, arrays):
    import jax

    def run(leaves, index):
        return results_of(example, {**leaves, "labels": jax.numpy.asarray(LABELS)})[index]

    @jax.jit
    def both(leaves):
        return [jax.value_and_grad(partial(run, index=index))(leaves) for index in (0, 1)]

    with jax.enable_x64(arrays["x"].dtype == np.float64):
        for value, grads in both({k: jax.numpy.asarray(v) for k, v in arrays.items()}):
            yield float(value), {k: np.asarray(v) for k, v in grads.items()}


def by_tensorflow(example, arrays):
    import tensorflow as tf

    leaves = {k: tf.constant(v) for k, v in arrays.items()}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(leaves)
        values = results_of(example, {**leaves, "labels": tf.constant(LABELS)})
    for value in values:
        grads = tape.gradient(value, leaves, unconnected_gradients="zero")
        yield float(value), {k: v.numpy() for k, v in grads.items()}


RUN = {"torch": by_torch, "jax": by_jax, "tensorflow": by_tensorflow}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_ours_is_theirs(make_ready, example, dtype):
    make_ready(example.libraries)
    near = TOLERANCE[dtype]
    (theirs, wanted), (ours, got) = RUN[example.framework](example, leaves_of(dtype))
    assert np.isfinite(theirs)
    assert ours == pytest.approx(theirs, rel=near, abs=near)
    assert any(gradient.any() for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert np.linalg.norm(got[name] - gradient) <= near * np.linalg.norm(gradient), name


def test_every_call_of_the_table_has_an_example():
    """By its name; of the others the page says how they differ, or writes them out."""
    code = "\n".join(example.code for example in EXAMPLES)
    table = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")][1:]
    names = {name for row in table for name in re.findall(r"`(\w+)", row[2])}
    assert len(names) > 15
    not_run = {"DistributedLossWrapper", "mocov2plus_loss_func", "contrastive_loss", "x",
               "SupervisedContrastiveLoss"}  # fmt: skip
    assert {name for name in names if name not in code} <= not_run
