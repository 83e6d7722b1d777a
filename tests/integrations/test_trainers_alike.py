"""The trainers of three frameworks have the same files, names and keywords, by their source."""

import ast
from pathlib import Path

import pytest

from fmicl_recipes import TrainSettings
from fmicl_recipes.choices import METHODS
from fmicl_recipes.loading import PACKAGES
from fmicl_recipes.methods import method_options

INTEGRATIONS = Path(__file__).resolve().parents[2] / "integrations"
#: Files that have the same role everywhere.
FILES = {
    "augment", "build", "checkpoints", "devices", "encoders", "loading", "method", "moco",
    "moco_v3", "optimizers", "simclr", "trainer", "vit",
}  # fmt: skip
NAMES = {
    "MethodTrainer", "MoCo", "MoCoV3", "SimCLR", "build_augmentation", "build_encoder",
    "build_loss", "build_method", "features", "load_encoder",
}  # fmt: skip
#: Keywords that one framework alone needs: a LightningModule has its optimiser and the seed of its
#: views, Flax draws weights from `rngs` in a `dtype`, and in Keras the schedule of the momentum is
#: in the graph.
OWN = {
    "fmicl_lightning": {"optimizer", "lr", "momentum", "weight_decay", "warmup_epochs", "seed"},
    "fmicl_flax": {"rngs", "dtype"},
    "fmicl_keras": {"steps"},
}


def parsed(package, name):
    return ast.walk(ast.parse((INTEGRATIONS / package / f"{name}.py").read_text("utf-8")))


@pytest.mark.parametrize("package", PACKAGES.values())
def test_packages_have_the_same_files_and_names(package):
    assert {path.stem for path in (INTEGRATIONS / package).glob("*.py")} >= FILES
    public = next(ast.literal_eval(n.value) for n in parsed(package, "__init__")
                  if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")  # fmt: skip
    assert set(public) >= NAMES


@pytest.mark.parametrize("package", PACKAGES.values())
@pytest.mark.parametrize("method", METHODS)
def test_constructors_have_the_keywords_and_defaults_of_the_settings(method, package):
    kind = next(n for n in parsed(package, method.replace("-", "_"))
                if isinstance(n, ast.ClassDef) and n.name in NAMES)  # fmt: skip
    given = next(n.args for n in kind.body if getattr(n, "name", None) == "__init__")
    assert [arg.arg for arg in given.args] == ["self", "encoder", "feature_dim", "loss", "augment"]
    keywords = [arg.arg for arg in given.kwonlyargs]
    shared = list(method_options(TrainSettings(method=method)))
    assert [name for name in keywords if name in shared] == shared
    assert set(keywords) - set(shared) <= OWN[package]
    for name, default in zip(keywords, given.kw_defaults, strict=True):
        if hasattr(TrainSettings, name):
            assert ast.unparse(default) == f"TrainSettings.{name}"
    assert method_options(TrainSettings(method="moco-v3"))["frozen_patches"] is True
