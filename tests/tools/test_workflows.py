"""Workflows and templates of the forge are well formed, and run targets of the Makefile alone."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORGE = ROOT / ".github"
WORKFLOWS = sorted(FORGE.glob("workflows/*.yml"))
#: What a step may run in a shell.
MAKE = re.compile(r"make (?P<target>[a-z-]+)( [A-Z]+=\S+)*")


@pytest.fixture(scope="module")
def yaml(require):
    return require("yaml")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request, yaml):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_for_tests_documentation_and_releases():
    assert {path.stem for path in WORKFLOWS} == {"ci", "docs", "release"}


def test_steps_run_targets_of_the_makefile_alone(workflow):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [MAKE.fullmatch(step["run"]) for step in steps_of(workflow) if "run" in step]
    assert commands
    assert all(commands)
    assert {command["target"] for command in commands} <= targets


def test_permissions_are_to_read_but_for_the_job_that_publishes(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        extra = job.get("permissions", {})
        assert set(extra) <= {"id-token", "pages"}
        assert not extra or name in ("publish", "deploy")


def test_jobs_end_and_replace_each_other(workflow):
    assert workflow["concurrency"]["group"]
    assert all(job["timeout-minutes"] <= 180 for job in workflow["jobs"].values())


def test_actions_are_pinned_by_their_major_version(workflow):
    used = [step["uses"] for step in steps_of(workflow) if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", action) for action in used)


def test_tests_run_on_every_python_that_the_package_promises(yaml):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    ci = yaml.safe_load((FORGE / "workflows/ci.yml").read_text(encoding="utf-8"))
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == promised


def test_a_release_is_published_by_trust_and_only_after_its_checks(yaml):
    jobs = yaml.safe_load((FORGE / "workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["publish"]["needs"] == "check"
    assert jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "password" not in str(jobs)
    assert "secrets" not in str(jobs)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_forms_of_issues_have_fields_with_names_of_their_own(yaml, name):
    form = yaml.safe_load((FORGE / f"ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) > 0
    assert all(field["attributes"]["label"] for field in fields)
