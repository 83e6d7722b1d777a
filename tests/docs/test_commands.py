"""Commands that pages show exist, and so do their options; links lead somewhere."""

import re
import shlex
from itertools import takewhile
from textwrap import dedent, indent

import pytest
import run_page

ROOT = run_page.ROOT
PAGES = {
    str(path.relative_to(ROOT)): path for path in (*run_page.all_pages(), ROOT / "CONTRIBUTING.md")
}
pages = pytest.mark.parametrize("name", PAGES)
#: A command in a line of its own, or between backticks, where it may be wrapped.
SHELL = re.compile(r"^ *```(?:sh|shell|bash|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
BEFORE = r"(?:.*?(?:[;&(]|\bdo\b) *)?(?:[A-Z_]+=\S+ +|srun +)*"
IN_LINES = r"^(?: {4,}|# )" + BEFORE + r"((?:fmicl|python|make|pytest) [^#;&|`\n]*)"
IN_TEXT = r"(?<!`)`(?:[A-Z_]+=\S+ )*((?:fmicl|python|make|pytest) [^`]*)`(?!`)"


def commands_of(text):
    """Words of every command of a page: `fmicl`, `python`, `make` and `pytest`."""
    text = re.sub(SHELL, lambda block: indent(dedent(block[1]), "    "), text)
    text = text.replace("\\\n", " ")
    for name, value in re.findall(r'\b(\w+)="(fmicl [^"]*)"', text):
        text = text.replace(f"${name} ", f"{value} ")
    found = re.findall(IN_LINES, text, re.MULTILINE) + re.findall(IN_TEXT, text)
    return [shlex.split(command.replace('"', "")) for command in found]


def test_commands_are_found():
    text = (
        'Say `fmicl train\nsimcse`.\n\n    P="fmicl train simclr --preset"\n    $P a --lr 1  # c\n'
        "    python -m benchmarks \\\n      --d 3\n\n```python\n# fmicl check --train\n```\n"
        "```sh\ncd fmicl && make demo\n```\nmake no bread"
    )
    assert commands_of(text) == [
        ["fmicl", "train", "simclr", "--preset", "a",
        "--lr", "1"], ["python", "-m", "benchmarks", "--d", "3"], ["fmicl", "check", "--train"],
        ["make", "demo"], ["fmicl", "train", "simcse"],
    ]  # fmt: skip


def options_among(words):
    return {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}


def options_of(command):
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


def check_fmicl(words):
    """The sub-command exists, and the options are among its own or those of its groups."""
    from typer.main import get_command

    from fmicl_cli.main import app
    from fmicl_cli.methods import KIND_OF

    at, known = get_command(app), {"--help"}
    for name in ["", *takewhile(lambda word: re.match("[a-z]", word), words)]:
        commands = getattr(at, "commands", None)
        if name and not commands:
            break  # the rest are arguments
        assert not name or name in commands, f"no command {name} in {words}"
        at = commands[name] if name else at
        known |= options_of(at)
    if hasattr(at, "commands") and "simclr" in at.commands:  # METHOD, or left out
        known |= {option for method in KIND_OF for option in options_of(at.commands[method])}
    assert options_among(words) <= known, f"{options_among(words) - known} of fmicl {words}"


def check_python(words):
    """The script or the module exists, and each option is spelt out somewhere beside it."""
    if words[0] == "-m":
        if not words[1].startswith(("benchmarks", "fmicl")):
            return
        base = ROOT.joinpath(*words[1].split("."))
        file = base / "__main__.py" if base.is_dir() else base.with_suffix(".py")
    elif words[0].endswith(".py") and words[0].split("/")[0] in ("tools", "examples", "benchmarks"):
        file = ROOT / words[0]
    else:
        return
    assert file.is_file(), f"there is no {file.name}, as in {words}"
    sources = "".join(path.read_text(encoding="utf-8") for path in file.parent.rglob("*.py"))
    names = {option: f'"(--)?{option[2:]}"' for option in options_among(words)}
    missing = {option for option, name in names.items() if not re.search(name, sources)}
    assert not missing, f"{missing} of {words}"


@pages
def test_commands_and_their_options_exist(require, name):
    require("typer")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for program, *words in commands_of(PAGES[name].read_text(encoding="utf-8")):
        if program == "fmicl":
            check_fmicl(words)
        elif program == "python":
            check_python(words)
        elif program == "make":
            assert "=" in words[0] or words[0] in targets, f"make {words}"
        else:
            paths = [word.partition("::")[0] for word in words if word.startswith("tests/")]
            assert all((ROOT / path).exists() for path in paths), words


def anchors_of(text):
    """What headings can be linked to by, and what explicit anchors are called."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?)(?: *\{.*\})? *$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    named = re.findall(r'(?:\{ *#|id="|name=")([\w-]+)', text)
    return {re.sub(r"[\s]+", "-", heading) for heading in words} | set(named)


@pages
def test_links_to_files_of_the_repository_lead_somewhere(name):
    page = PAGES[name]
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} links to {target}, which is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file.read_text("utf-8")), f"{name} links to {target}"
