"""The site's reference: a page a package, with every public name, and one for the command."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import griffe

from fmicl_core import specification

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "fmicl", "fmicl_core", "fmicl_torch", "fmicl_jax", "fmicl_tensorflow", "fmicl_keras",
    "fmicl_sentence_transformers", "fmicl_lightning", "fmicl_flax", "fmicl_recipes", "fmicl_check",
)  # fmt: skip
#: What all packages offer, and the core shows.
SPECIFICATION = "fmicl_core.specification"
#: Modules without a list of their public names, from which users import.
ROOMS = (
    "fmicl_recipes.augmentation", "fmicl_recipes.compare", "fmicl_recipes.evaluation",
    "fmicl_recipes.run", "fmicl_check.parity",
)  # fmt: skip


@functools.cache
def load(package: str) -> griffe.Module:
    """A package, read without importing it."""
    found = griffe.load(
        package,
        search_paths=[ROOT, ROOT / "backends", ROOT / "integrations"],
        extensions=griffe.load_extensions("griffe_sphinx"),
        resolve_aliases=True,
        resolve_external=True,
    )
    assert isinstance(found, griffe.Module)
    return found


def names(module: griffe.Module) -> list[str]:
    """The public names of a module, but for those of the specification, which the core shows."""
    if module.path in ROOMS:
        own = [name for name, member in module.members.items() if not member.is_alias]
        return [name for name in own if not name.startswith("_") and module[name].docstring]
    return [str(name) for name in module.exports or ()]


def modules(package: str) -> Iterator[griffe.Module]:
    """The modules of a package from which its users import, the package itself first."""

    def walk(module: griffe.Module) -> Iterator[griffe.Module]:
        if module.path in {package, *ROOMS} or (module.exports and module.path != SPECIFICATION):
            yield module
        for inner in module.modules.values():
            if not inner.is_alias:
                yield from walk(inner)

    yield from walk(load(package))


def undocumented(package: str) -> Iterator[str]:
    """Public names of a package, and their public methods, that have no docstring."""
    for module in modules(package):
        for name in names(module):
            found = module[name]
            if not found.docstring:
                yield f"{module.path}.{name}"
            if found.is_class:
                for method in found.members.values():
                    if method.is_function and not documented(found, method):
                        yield f"{module.path}.{name}.{method.name}"


def documented(owner: griffe.Class, method: griffe.Function) -> bool:
    """Whether a method has a docstring, or a base class has one, or may, where one is not read."""
    if method.docstring or method.name.startswith("_"):
        return True
    bases = [base for base in owner.mro() if method.name in base.members]
    unread = len(owner.bases) > len(owner.resolved_bases)
    return unread or any(base.members[method.name].docstring for base in bases)


def summary(package: str) -> str:
    """The first line of a package's docstring."""
    docstring = load(package).docstring
    return docstring.value.splitlines()[0] if docstring else ""


def index_page() -> str:
    """The list of packages."""
    rows = [f"| [`{name}`]({name}.md) | {summary(name)} |" for name in PACKAGES]
    rows.append("| [`fmicl` in a shell](command.md) | Train, evaluate, compare, check. |")
    return "\n".join(["# Reference", "", "| package | what it is |", "| --- | --- |", *rows, ""])


def package_page(package: str) -> str:
    """Every public name of a package.

    The docstring of a package stands above; modules from which users import follow with theirs.
    """
    parts = [f"# {package}"]
    for module in modules(package):
        if module.path != package:
            parts.append(f"# {module.path}")
        if module.docstring:
            parts.append(module.docstring.value)
        if package in ("fmicl", "fmicl_torch", "fmicl_jax", "fmicl_tensorflow"):
            links = ", ".join(f"[`{name}`][fmicl_core.{name}]" for name in specification.__all__)
            parts.append(f"Also here, the names of [the specification](fmicl_core.md): {links}.")
        if module.path == "fmicl":
            continue
        parts += [f"::: {module.path}.{name}" for name in names(module)]
    return "\n\n".join(parts) + "\n"


def command_page() -> str:
    """The command's own help, one section a sub-command."""
    import typer.main
    from typer.cli import get_docs_for_click

    from fmicl_cli.main import app

    command = typer.main.get_command(app)
    with command.make_context("fmicl", ["--help"], resilient_parsing=True) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="fmicl", title="The fmicl command")
    return re.sub(r"\[(/?)(dim|bold|italic|cyan)\]", "", text)  # marks of the terminal
