"""The model card of a run: what was trained, how, how well, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from fmicl_recipes.data.hub import ALIASES
from fmicl_recipes.options import NEUTRAL
from fmicl_recipes.presets import resolve
from fmicl_recipes.report import markdown
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.weights.model import ENCODER, METHOD, Model

#: Accuracies of metrics.json that the hub lists, with the names that it shows.
ACCURACIES = {
    "knn_accuracy": "kNN accuracy",
    "linear10_accuracy": "linear probe, 10 labels a class",
    "linear_accuracy": "linear probe, all labels",
}
#: Options of a run that say where it was computed, and nothing of what.
ELSEWHERE = (*NEUTRAL, "cache", "devices", "machines")
#: How the encoder is loaded, by whichever framework has it.
USE = """```python
from {package} import load_encoder{others}

encoder = load_encoder("{place}")
```

PyTorch takes images (N, C, H, W), Flax and Keras (N, H, W, C), uint8 or float in [0, 1]; they are
standardised inside. `features("{place}", images)`, from the same package, makes NumPy's
features of NumPy's images."""
OTHERS = "  # or fmicl_flax, or fmicl_keras (any backend)"
CITATION = """@article{lu2023fmicl,
  title   = {f-MICL: Understanding and Generalizing InfoNCE-based Contrastive Learning},
  author  = {Lu, Yiwei and Zhang, Guojun and Sun, Sun and Guo, Hongyu and Yu, Yaoliang},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2402.10150}
}"""


def is_local(data: str) -> bool:
    """Whether data, or a run, are a file or a folder of somebody's machine, and not of the hub."""
    return Path(data).is_absolute() or Path(data).exists()


def public(settings: TrainSettings) -> TrainSettings:
    """The settings without the folders of somebody's machine: data and runs by their last names."""
    named = {"data": settings.data, "init": settings.init}
    shown: dict[str, Any] = {k: Path(v).name for k, v in named.items() if v and is_local(v)}
    return replace(settings, **shown)


def train_command(settings: TrainSettings) -> str:
    """The command that trains with these settings.

    Options that the command takes by itself are left out, and those that only say where a run is
    computed.
    """
    words = ["fmicl", "train", settings.method]
    usual = resolve(None, {"method": settings.method, "data": settings.data})
    for name in settings.options():
        value = getattr(settings, name)
        if name == "method" or name in ELSEWHERE or not settings.applies(name):
            continue
        if name == "data":
            words += ["--data", quote(value)]
        elif value is not None and value != getattr(usual, name):
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, quote(str(value))]
    return " ".join(words)


def model_card(
    model: Model, settings: TrainSettings, metrics: Mapping[str, Any], place: str
) -> str:
    """The README.md of a model, with the header that the hub reads.

    Args:
        model: the trained encoder.
        settings: settings of its run.
        metrics: contents of the run's metrics.json.
        place: where the model will be, as `load_encoder` takes it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    known = None if is_local(settings.data) or settings.data == "digits" else settings.data
    hub_name = ALIASES.get(known, known) if known else None
    settings = public(settings)
    data = settings.data
    license = model.facts.get("license")
    header = ModelCardData(
        license=license,
        library_name="fmicl",
        pipeline_tag="image-feature-extraction",
        tags=["contrastive-learning", "self-supervised", settings.method, model.architecture.name],
        datasets=[hub_name] if hub_name else None,
        model_name=place.rstrip("/").rpartition("/")[2],
        eval_results=[
            EvalResult(
                task_type="image-feature-extraction", dataset_type=hub_name or data,
                dataset_name=data, metric_type="accuracy", metric_name=shown,
                metric_value=round(100.0 * metrics[key], 2),
            )
            for key, shown in ACCURACIES.items() if metrics.get(key) is not None
        ],
    )  # fmt: skip
    height, width, channels = model.image_shape
    options = ", ".join(f"{k} {v}" for k, v in model.facts["options"].items())
    number = model.facts["num_features"]  # which of a library's encoder nobody wrote down
    features = "features" if number is None else f"{number} features"
    others = OTHERS if model.architecture.ours else ""
    use = USE.format(package="fmicl_lightning", others=others, place=place)
    epochs = model.facts["trained"]["epochs"]
    versions = ", ".join(f"{k} {v}" for k, v in model.facts["versions"].items())
    rows = {**metrics.get("baselines", {}), metrics["title"]: metrics}
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {model.architecture.name}, trained by {metrics['title']} on {data}",
        f"An encoder of images, trained with fmicl: {options}. It makes {features}"
        f" of an image of {height} x {width} pixels and {channels}"
        f" channel{'s' * (channels > 1)}. It saw {metrics.get('train_images', 'the training')}"
        f" images for {epochs} epoch{'s' * (epochs > 1)}, "
        + ("with their labels." if settings.supervised else "without labels."),
        f"## Use\n\n{use}",
        f"`{ENCODER}` has PyTorch's layouts and the names of torchvision (ResNets) and timm (ViTs),"
        f" so that it can be read without fmicl, too; `{METHOD}` has the networks beside the"
        " encoder, to continue from.",
        f"## Training\n\n    {train_command(settings)}",
        f"## Evaluation\n\n{markdown(rows).strip()}",
        f"Evaluated on {metrics.get('evaluated_on', 'its test images')},"
        f" {metrics.get('test_images', '?')} images, seed {settings.seed}; one run."
        " Command: `fmicl evaluate RUN`.",
        f"Versions: {versions}.",
        "## Licence\n\n" + (license or "None was chosen for these weights; ask their author."),
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"
