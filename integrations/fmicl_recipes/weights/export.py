"""Trained encoders given away: a folder with a model card, or a repository of the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.files import check_folder, make_folder, write_json
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.weights.card import model_card, public
from fmicl_recipes.weights.hub import SCHEME, is_hub, refused, repository
from fmicl_recipes.weights.model import ENCODER, METHOD, MODEL, in_effect, open_model


def export_model(run: str | Path, out: str | Path, *, license: str | None = None) -> Path:
    """Write a folder to give away: model.json, the weights, and README.md, a model card.

    Names of folders of this machine stay out of it.

    Args:
        run: folder of an evaluated run.
        out: folder to write, which must not exist or be empty.
        license: identifier of the licence of the weights, such as "cc-by-4.0"; None: not chosen.

    Raises:
        ValueError: there is no evaluated run in the folder, or `out` is in the way.
    """
    out = Path(out)
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise invalid("out", "a folder that does not exist yet", str(out))
    return _write(RunFolder(run), out, out.name, license)


def push_to_hub(
    run: str | Path, name: str, *, license: str | None = None, private: bool = False
) -> str:
    """Put a trained encoder on the Hugging Face hub, where `load_encoder` finds it.

    `load_encoder("hf://OWNER/NAME")` then loads it. The repository is made if it does not exist;
    its files are those of `export_model`. The client takes the token of `hf auth login` or of the
    environment variable HF_TOKEN.

    Args:
        run: folder of an evaluated run.
        name: "OWNER/NAME", or "hf://OWNER/NAME".
        license: identifier of the licence of the weights, such as "cc-by-4.0"; None: not chosen.
        private: whether a repository that is made is private.

    Returns:
        The address of the model.

    Raises:
        ValueError: there is no evaluated run in the folder, or the hub refuses it.
    """
    from huggingface_hub import HfApi

    place = name if is_hub(name) else SCHEME + name
    repo, revision = repository(place)
    if revision is not None:
        raise invalid("name", "OWNER/NAME without a revision", name)
    with TemporaryDirectory() as scratch:
        folder = _write(RunFolder(run), Path(scratch), place, license)
        api = HfApi(library_name="fmicl")
        try:
            made = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by fmicl")
        except Exception as error:  # of the hub's, its client's and the system's many kinds
            expected = "a repository that the hub lets you write"
            raise refused("name", expected, repo, error) from error
    return str(made)


def _write(run: RunFolder, out: Path, place: str, license: str | None) -> Path:
    """Write the files of a model into a folder, once all of the run is read."""
    model, settings = open_model(run.path), run.settings()
    metrics = run.read_json("metrics.json")
    facts: dict[str, Any] = model.facts | {"license": license or model.facts["license"]}
    facts["trained"] = facts["trained"] | {"settings": in_effect(public(settings))}
    card = model_card(replace(model, facts=facts), settings, metrics, place)
    make_folder(out)
    copyfile(model.file, out / ENCODER)
    copyfile(run.path / METHOD, out / METHOD)
    write_json(out / MODEL, facts)
    (out / "README.md").write_text(card, encoding="utf-8")
    return out
