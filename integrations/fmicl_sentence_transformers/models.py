"""The encoder of a run, read from a folder or the hub, with the pooling that the settings ask."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.utils import logging

from fmicl_core.checks import invalid
from fmicl_recipes.text import TextSettings


def load_model(settings: TextSettings, path: str | Path | None = None) -> SentenceTransformer:
    """The encoder that the settings name, or the one saved at `path`.

    Args:
        settings: settings of the run.
        path: folder of the encoder, or None for the model of the settings.

    Raises:
        ValueError: the encoder cannot be loaded; the message says what to download or to give.
    """
    device = {"cpu": "cpu", "gpu": "cuda", "auto": None}[settings.device]
    logging.disable_progress_bar()
    source = str(path or settings.model)
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise invalid("model", "a folder that exists, or a hub name", source)
    try:
        model = SentenceTransformer(str(folder) if local else source, device=device)
    except Exception as error:  # the libraries raise many kinds, and all mean the same to the user
        if local:
            what = "a folder saved by sentence-transformers or transformers"
            raise invalid(
                "model", what, source, why=f"They said: {str(error).rstrip('.')}."
            ) from error
        raise invalid(
            "model", "a model that can be reached", source,
            why=f"The hub could not be read ({type(error).__name__}). Where there is access to it "
            f"run `hf download {source} --local-dir DIR`, and give the folder here: --model DIR.",
        ) from error  # fmt: skip
    model.max_seq_length = settings.max_length
    if settings.pooling != "model":
        for index, module in enumerate(model):
            if isinstance(module, Pooling):
                model[index] = Pooling(module.embedding_dimension, settings.pooling)
    # No look-ups of the model and data on the hub while the model card is written.
    model.model_card_data.local_files_only = True
    model.model_card_data.generate_widget_examples = False
    return model
