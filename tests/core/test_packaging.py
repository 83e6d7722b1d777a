"""The wheel holds what it should, installs with NumPy alone, and dependencies point down."""

import ast
import importlib
import json
import pydoc
import re
import subprocess
import sys
import types
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fmicl
import fmicl_core

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT, ROOT / "backends", ROOT / "integrations")
PACKAGES = sorted(
    p.name for folder in FOLDERS for p in folder.glob("fmicl*") if (p / "__init__.py").exists()
)
FRAMEWORKS = (
    "torch", "triton", "jax", "tensorflow", "keras", "flax", "optax", "orbax", "lightning",
    "sentence_transformers", "transformers",
)  # fmt: skip
BACKENDS = ("fmicl_torch", "fmicl_jax", "fmicl_tensorflow")
RECIPES = ("fmicl_core", "fmicl_recipes")
#: What each package may import of ours, and of the frameworks: cli, trainers, backends, core.
ALLOWED = {
    "fmicl_core": ((), ()),
    "fmicl": (("fmicl_core",), ()),
    "fmicl_torch": (("fmicl_core",), ("torch", "triton")),
    "fmicl_jax": (("fmicl_core",), ("jax",)),
    "fmicl_tensorflow": (("fmicl_core",), ("tensorflow",)),
    "fmicl_recipes": (("fmicl_core",), ()),
    "fmicl_check": (
        (*RECIPES, *BACKENDS, "fmicl_lightning", "fmicl_flax", "fmicl_keras"),
        ("torch", "jax", "tensorflow", "lightning", "keras"),
    ),
    "fmicl_lightning": ((*RECIPES, "fmicl_torch"), ("torch", "lightning")),
    "fmicl_flax": ((*RECIPES, "fmicl_jax"), ("jax", "flax", "optax", "orbax")),
    "fmicl_keras": ((*RECIPES, *BACKENDS), ("keras", "tensorflow", "jax", "torch")),
    "fmicl_sentence_transformers": (
        (*RECIPES, "fmicl_torch"),
        ("torch", "sentence_transformers", "transformers"),
    ),
    "fmicl_cli": (
        (*RECIPES, "fmicl_lightning", "fmicl_check", "fmicl_sentence_transformers"),
        (),
    ),
}


def folder_of(package: str) -> Path:
    return next(folder / package for folder in FOLDERS if (folder / package).is_dir())


def modules_of(package: str) -> dict[str, Path]:
    """The files of a package by the names of their modules."""
    folder = folder_of(package)
    paths = {path.relative_to(folder.parent).with_suffix(""): path for path in folder.rglob("*.py")}
    return {".".join(at.parts).removesuffix(".__init__"): path for at, path in paths.items()}


def imported_by(path: Path) -> set[str]:
    """What a file imports, "package.module.name", inside of functions and for type hints, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_of(package: str) -> set[str]:
    """Top-level names of every module imported anywhere in a package."""
    names = set().union(*map(imported_by, modules_of(package).values()))
    return {name.partition(".")[0] for name in names}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "-o",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("fmicl-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The wheel's packages, unpacked by pip in a folder of their own."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def empty_environment(wheel, tmp_path_factory):
    """A Python with NumPy and the wheel, and nothing else."""
    home = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*command, "--target", str(site), str(wheel)], check=True, capture_output=True)
    here = Path(importlib.import_module("numpy").__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (here / name).exists():
            (site / name).symlink_to(here / name)
    return python


def test_nothing_generic_lands_in_site_packages(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_the_base_install_needs_numpy_only(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needs == ["Requires-Dist: numpy>=1.26"]


@pytest.mark.parametrize("package", ["fmicl_core", "fmicl"])
def test_the_specification_works_in_an_empty_environment_without_any_framework(
    empty_environment, package
):
    code = (
        f"import json, sys, numpy as np, {package} as f;"
        "x = np.eye(3); print(json.dumps([f.fmicl_reference(x, x, f.FMICL()).loss,"
        "sorted(sys.modules)]))"
    )
    out = subprocess.check_output([empty_environment, "-I", "-c", code], text=True)
    loss, modules = json.loads(out)
    assert loss == pytest.approx(-1.0 + 40.0 * 2.718281828459045**-2)
    assert not set(FRAMEWORKS) & set(modules)


def test_every_module_is_in_the_wheel(wheel):
    of_the_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    for package in PACKAGES:
        home = folder_of(package)
        own = {f"{package}/{path.relative_to(home).as_posix()}" for path in home.rglob("*.py")}
        assert own
        assert own == {name for name in of_the_wheel if name.startswith(f"{package}/")}


@pytest.mark.slow  # imports every framework; that no module is missing is above
def test_every_package_imports_from_the_wheel(installed):
    """All in one process, as importing the frameworks takes seconds."""
    code = f"import json, sys; sys.path.insert(0, {str(installed)!r})\n"
    code += "".join(f"import {package}\n" for package in PACKAGES)
    code += f"print(json.dumps([sys.modules[p].__file__ for p in {[*PACKAGES]}]))"
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=installed)
    files = json.loads(out.strip().splitlines()[-1])
    assert len(files) == len(PACKAGES)
    assert all(Path(file).is_relative_to(installed) for file in files)


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_down(package):
    ours, frameworks = ALLOWED[package]
    found = imports_of(package)
    assert {n for n in found if n in PACKAGES} <= {package, *ours}
    assert found & set(FRAMEWORKS) <= set(frameworks)


def test_the_front_door_offers_the_specification():
    assert fmicl.__all__ == fmicl_core.__all__
    assert all(getattr(fmicl, name) is getattr(fmicl_core, name) for name in fmicl.__all__)
    assert fmicl.__version__ == fmicl_core.__version__


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(wheel, package):
    assert f"{package}/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_no_package_imports_one_that_imports_it():
    TopologicalSorter({package: ours for package, (ours, _) in ALLOWED.items()}).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_one_that_imports_it(package):
    """Names of a module are that module's alone; names of a package are its `__init__`'s."""
    modules = modules_of(package)
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imported_by(path)}
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


def test_a_method_is_built_without_what_only_evaluation_needs(require):
    """Neither trainers, but for the demo, nor what they import of the recipes bring it.

    The recipes are imported without the frameworks, which takes a second; Lightning and Keras bring
    some of it themselves.
    """
    require("sklearn")
    heavy, recipes = {"sklearn", "matplotlib", "datasets"}, modules_of("fmicl_recipes")
    trainers = [modules_of(package) for package in ("fmicl_lightning", "fmicl_flax", "fmicl_keras")]
    paths = [path for modules in trainers for path in modules.values() if path.stem != "demo"]
    names = set().union(*map(imported_by, paths))
    assert not heavy & {name.partition(".")[0] for name in names}
    ours = {name if name in recipes else name.rpartition(".")[0] for name in names} & recipes.keys()
    assert len(ours) > 10
    code = f"import sys, {', '.join(sorted(ours))}; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_core_imports_the_standard_library_and_numpy_only():
    assert imports_of("fmicl_core") <= set(sys.stdlib_module_names) | {"numpy", "fmicl_core"}


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_exactly_the_public_names(package):
    module = importlib.import_module(package)
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(module.__all__) == public - {"annotations"}


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_lists_the_public_names_only(package):
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_dir_leaves_out_is_there_all_the_same(package):
    """Help has the docstring and the names, a star takes them, and submodules import as ever."""
    module = importlib.import_module(package)
    text = pydoc.plain(pydoc.render_doc(module))
    assert module.__doc__.splitlines()[0] in text
    assert all(re.search(rf"\b{name}\b", text) for name in module.__all__)
    taken: dict[str, object] = {}
    exec(f"from {package} import *", taken)
    assert set(taken) - {"__builtins__"} == set(module.__all__)
    for part in [p.stem for p in folder_of(package).glob("[!_]*.py")][:1]:
        exec(f"from {package} import {part}", taken)
        assert taken[part].__name__ == f"{package}.{part}"
