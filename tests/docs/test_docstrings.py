"""Public names of core and backends: examples that run, and contracts of dtypes and derivatives."""

import ast
import doctest
import functools
import importlib
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fmicl_core
from fmicl_core import specification

#: The backends, and the framework of each.
FRAMEWORKS = {f"fmicl_{name}": name for name in ("torch", "jax", "tensorflow")}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: What functions return, or formulas are given; of the backends, it has no contract of its own.
RECORDS = ("FMICLTerms", "LossAndGradients", "Reference", "Ops")
#: Functions that are given a loss.
GIVEN_A_LOSS = ("loss_and_gradients", "cached_loss")


def own_names(package):
    """Those of `__all__` beside the specification's, without an import of the framework."""
    tree = ast.parse(Path(find_spec(package).origin).read_text(encoding="utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(n.value) for n in assigned if n.targets[0].id == "__all__")


def is_documented(value):
    return inspect.isfunction(value) or inspect.isclass(value)


CORE = [name for name in fmicl_core.__all__ if is_documented(getattr(fmicl_core, name))]
OWN = [(package, name) for package in FRAMEWORKS for name in own_names(package)]
CONTRACTS = [(package, name) for package, name in OWN if name not in RECORDS]
LOSSES = [(p, name) for p, name in CONTRACTS if name.endswith("_loss") and name not in GIVEN_A_LOSS]
each_loss = pytest.mark.parametrize(("package", "name"), LOSSES)


@pytest.fixture
def documented(require, package, name):
    """A public name; its framework must be there."""
    if package in FRAMEWORKS:
        require(FRAMEWORKS[package])
    return getattr(importlib.import_module(package), name)


def sections(documented):
    """The text of every section of a docstring, in one line, by its title."""
    parts = re.split(r"^(\w+):\n", inspect.getdoc(documented), flags=re.MULTILINE)[1:]
    indented = (re.match(r"((?: {4}.*)?\n?)*", part).group() for part in parts[1::2])
    return dict(zip(parts[::2], (" ".join(part.split()) for part in indented), strict=True))


def test_every_public_name_is_looked_at(require):
    for package, framework in FRAMEWORKS.items():
        require(framework)
        module = importlib.import_module(package)
        mine = {name for of, name in OWN if of == package}
        assert mine | {*specification.__all__} == {*module.__all__}
        assert all(is_documented(getattr(module, name)) for name in mine)


@pytest.mark.by_turns(every=2)
@pytest.mark.parametrize(("package", "name"), [*(("fmicl_core", name) for name in CORE), *OWN])
def test_the_example_runs(documented, name):
    examples = sections(documented).get("Examples", "")
    assert name in examples or name in RECORDS, "the example does not use what it is of"
    (found,) = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
    assert any(example.want for example in found.examples)
    said = []
    results = doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(found, out=said.append)
    assert not results.failed, "".join(said)


@pytest.mark.parametrize("name", sorted({name for _, name in OWN}))
def test_examples_are_the_same_in_every_framework(require, name):
    """The same numbers come out of the same code, but for the names of a framework."""
    outputs = []
    for package, framework in FRAMEWORKS.items():
        if (package, name) in OWN:
            require(framework)
            documented = getattr(importlib.import_module(package), name)
            (found,) = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
            outputs.append([example.want for example in found.examples if example.want])
    assert all(output == outputs[0] for output in outputs)


@pytest.mark.parametrize(("package", "name"), CONTRACTS)
def test_dtypes_and_derivatives_are_said_after_what_is_returned(documented):
    titles = [t for t in sections(documented) if t in ("Args", "Returns", "Dtypes", "Derivatives")]
    assert titles[-2:] == ["Dtypes", "Derivatives"]
    assert titles[:-2]
    assert all(len(sections(documented)[title]) > 60 for title in titles[-2:])


def test_losses_say_the_same_of_dtypes(require):
    said = set()
    for package, name in CONTRACTS:
        if name not in GIVEN_A_LOSS:
            require(FRAMEWORKS[package])
            said.add(sections(getattr(importlib.import_module(package), name))["Dtypes"])
    (sentence,) = said
    assert "Sums and the loss are float32, or float64 if any feature is." in sentence


X = [[1.0, 0.2], [0.1, 1.0], [-1.0, 0.3], [0.2, -1.0]]
Y = [[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]]


class Torch:
    """Derivatives by PyTorch."""

    def __init__(self):
        self.torch = importlib.import_module("torch")
        self.x, self.y = (self.torch.tensor(v, dtype=self.torch.float64) for v in (X, Y))

    def dtypes(self, loss, *kinds):
        rows = zip((self.x, self.y), kinds, strict=True)
        rows = [v.detach().to(getattr(self.torch, kind)).requires_grad_() for v, kind in rows]
        value = loss(*rows)
        return [value.dtype, *(g.dtype for g in self.torch.autograd.grad(value, rows))]

    def first(self, loss):
        return self.torch.func.grad(loss)(self.x, self.y)

    def forward(self, loss):
        got = self.torch.func.jvp(lambda x: loss(x, self.y), (self.x,), (self.y,))[1]
        self.torch.testing.assert_close(got, (self.first(loss) * self.y).sum())

    def second(self, loss):
        return self.torch.func.hessian(loss)(self.x, self.y)


class Jax:
    """Derivatives by JAX, traced and not run."""

    def __init__(self):
        self.jax = importlib.import_module("jax")

    def trace(self, function, *kinds):
        with self.jax.enable_x64(True):
            rows = [self.jax.ShapeDtypeStruct((4, 2), kind) for kind in kinds or ["float64"] * 2]
            return self.jax.eval_shape(function, *rows)

    def dtypes(self, loss, *kinds):
        value, grads = self.trace(self.jax.value_and_grad(loss, argnums=(0, 1)), *kinds)
        return [value.dtype, *(g.dtype for g in grads)]

    def first(self, loss):
        return self.trace(self.jax.grad(loss))

    def forward(self, loss):
        return self.trace(lambda x, y: self.jax.jvp(loss, (x, y), (y, x)))

    def second(self, loss):
        return self.trace(self.jax.hessian(loss))


class TensorFlow:
    """Derivatives by TensorFlow; traced and not run in tiles, which take long to compile."""

    def __init__(self):
        self.tf = importlib.import_module("tensorflow")
        self.x, self.y = (self.tf.constant(v, self.tf.float64) for v in (X, Y))

    def run(self, loss, function):
        if getattr(loss, "keywords", {}).get("implementation") == "tiled":
            return self.tf.function(function, autograph=False).get_concrete_function()
        return function()

    def dtypes(self, loss, *kinds):
        rows = [self.tf.cast(v, kind) for v, kind in zip((self.x, self.y), kinds, strict=True)]
        with self.tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(*rows)
        return [v.dtype.name for v in (value, *tape.gradient(value, rows))]

    def slope(self, loss):
        with self.tf.GradientTape() as tape:
            tape.watch(self.x)
            value = loss(self.x, self.y)
        return tape.gradient(value, self.x)

    def first(self, loss):
        return self.run(loss, lambda: self.slope(loss))

    def forward(self, loss):
        def along():
            with self.tf.autodiff.ForwardAccumulator(self.x, self.y) as accumulator:
                value = loss(self.x, self.y)
            return accumulator.jvp(value)

        got = self.run(loss, along)
        np.testing.assert_allclose(got, np.sum(self.slope(loss) * self.y), rtol=1e-12)

    def second(self, loss):
        def bend():
            with self.tf.GradientTape() as tape:
                tape.watch(self.x)
                square = self.tf.reduce_sum(self.slope(loss) ** 2)
            return tape.gradient(square, self.x)

        assert self.run(loss, bend) is not None


KINDS = {"fmicl_torch": Torch, "fmicl_jax": Jax, "fmicl_tensorflow": TensorFlow}


@pytest.fixture
def calculus(documented, package):
    """Derivatives by the framework of the package."""
    return KINDS[package]()


def in_form(loss, form):
    """The loss in a form, as a function of x and y; None where it has but one."""
    return functools.partial(loss, implementation=form) if form else loss


#: dtypes of x, y and the loss.
DTYPES = [
    ("float16", "bfloat16", "float32"),
    ("float32", "float32", "float32"),
    ("bfloat16", "float64", "float64"),
]


@each_loss
def test_dtypes_are_those_of_the_docstring(documented, calculus):
    for x, y, wide in DTYPES:
        names = [str(kind).removeprefix("torch.") for kind in calculus.dtypes(documented, x, y)]
        assert names == [wide, x, y]


@each_loss
def test_derivatives_are_those_of_the_docstring(documented, calculus):
    says = sections(documented)["Derivatives"]
    has_forms = "implementation" in inspect.signature(documented).parameters
    any_order = re.search(r"of any order(?: with (\"dense\"),|\.)", says)
    assert any_order, says
    once = re.search(r"once with ([^(]*)\(a second derivative is an error\)", says)
    assert bool(once) == has_forms == bool(any_order.group(1))
    apart = 'By `tf.autodiff.ForwardAccumulator` with "dense" alone.' in says
    assert "forward mode" in says or "ForwardAccumulator" in says

    plain = in_form(documented, "dense" if has_forms else None)
    calculus.first(plain)
    calculus.second(plain)
    calculus.forward(plain)
    if not has_forms:
        return
    tiled, refused = in_form(documented, "tiled"), {"match": "use implementation='dense'"}
    calculus.first(tiled)
    with pytest.raises(RuntimeError, **refused):
        calculus.second(tiled)
    if apart:
        with pytest.raises(RuntimeError, **refused):
            calculus.forward(tiled)
    else:
        calculus.forward(tiled)


@each_loss
def test_the_docstring_names_the_forms_that_there_are(documented, package, calculus):
    if "implementation" not in inspect.signature(documented).parameters:
        return
    once = re.search(r"once with ([^(]*)\(", sections(documented)["Derivatives"]).group(1)
    with pytest.raises(ValueError, match=r"`implementation`\. Expected one of") as refused:
        calculus.first(in_form(documented, "none of these"))
    forms = {*re.findall(r"'(\w+)'", str(refused.value).partition("Received")[0])}
    assert forms == {"auto", "dense", *re.findall(r'"(\w+)"', once)}
