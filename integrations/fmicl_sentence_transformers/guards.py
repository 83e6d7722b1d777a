"""What is checked of a run's encoder and checkpoint before libraries read them: no code, no pickle.

sentence-transformers and transformers load what configurations name: classes of modules, code of
one's own beside the weights, kernels and adapters of the hub, pickled weights. A run needs nothing
of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes.archives import check_archive
from fmicl_recipes.files import parse_json, read_text
from fmicl_recipes.run_folder import unreadable_checkpoint

#: Modules of sentence-transformers that hold arrays and nothing else.
MODULES = (
    "Transformer", "Pooling", "Normalize", "Dense", "Dropout", "LayerNorm", "CNN", "LSTM",
    "WeightedLayerPooling", "StaticEmbedding",
)  # fmt: skip
LIBRARY = "sentence_transformers."
#: Endings of files that no encoder needs: weights other than safetensors, and code.
REFUSED = (
    ".bin", ".ckpt", ".dll", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".onnx", ".pickle",
    ".pkl", ".pt", ".pth", ".py", ".pyc", ".so", ".whl", ".xml",
)  # fmt: skip
#: Files of a checkpoint that are archives of tensors, and one that is pickled and never read.
STATES, UNREAD = ("optimizer.pt", "scheduler.pt", "rng_state.pth"), "training_args.bin"
#: Files in JSON that are words, and have no options.
WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
STATE = "trainer_state.json"
#: Options that make a library take code or weights from elsewhere.
ELSEWHERE = (
    "auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "use_kernels",
    "base_model_name_or_path", "adapter_kwargs", "backend_kwargs", "code_revision", "gguf_file",
)  # fmt: skip
#: How attention may be computed: by what is installed, not by a kernel of the hub.
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
#: Options that are handed on to transformers, and what they may hold.
HANDED = re.compile(r"(model|tokenizer|processor|config)_(args|kwargs)")
PLAIN = ("dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "model_max_length")
#: Options with sides of the square matrices that every transformer has, and others that are sizes.
SIDES = ("hidden_size", "dim", "d_model", "n_embd")
SIZES = re.compile(r".*(size|dim|layers|heads|embeddings|features|length)$")
MOST_LAYERS = 1000


def check_encoder(folder: Path, *, pickles: bool = False, also: tuple[str, ...] = ()) -> None:
    """Check that sentence-transformers can read an encoder without running code of the folder.

    Args:
        folder: folder of the encoder.
        pickles: whether weights may be in other files than safetensors. The libraries read those
            with `weights_only`.
        also: names of further files that may be there.

    Raises:
        ValueError: they could not; the message says for what.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix.lower() in REFUSED and path.name not in also and not pickles:
            raise _refused(path, "Weights are read from safetensors, and code is not read at all.")
        if path.name.startswith("adapter_"):
            raise _refused(path, "Adapters name weights that are elsewhere.")
    numbers = sum(path.stat().st_size for path in files)  # of a byte each at the least
    for path in files:
        if path.suffix == ".json" and path.name not in (*WORDS, STATE):
            _check_options(path, _parsed(path), numbers)
    if (folder / "modules.json").is_file():
        _check_modules(folder, _parsed(folder / "modules.json"))


def check_checkpoint(folder: Path, batch_size: int) -> None:
    """Check a checkpoint of transformers' trainer that a run goes on from.

    The library reads the states with `weights_only`.

    Args:
        folder: folder of the checkpoint.
        batch_size: batch size of the run.

    Raises:
        ValueError: it could run code, or is of another run.
    """
    check_encoder(folder, also=(*STATES, UNREAD))
    for name in STATES:
        if (folder / name).exists():
            try:
                check_archive(folder / name)
            except ValueError as error:
                raise unreadable_checkpoint(folder / name) from error
    state = _parsed(folder / STATE)
    if not isinstance(state, dict) or state.get("train_batch_size") != batch_size:
        raise unreadable_checkpoint(folder)
    step = state.get("global_step")
    if type(step) is not int or not 0 <= step <= 2**53:
        raise unreadable_checkpoint(folder)


def _parsed(path: Path) -> Any:
    text = read_text(path)
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise invalid("run", f"a readable {path.name}", str(path), why=f"{error}.") from error


def _check_modules(folder: Path, modules: Any) -> None:
    path, home = folder / "modules.json", folder.resolve()
    known = isinstance(modules, list) and all(isinstance(module, dict) for module in modules)
    for module in modules if known else [{}]:
        kind, place = module.get("type"), module.get("path")
        if not isinstance(kind, str) or not isinstance(place, str):
            raise _refused(path, "A module has a type and a path.")
        if not kind.startswith(LIBRARY) or kind.rpartition(".")[2] not in MODULES:
            raise _refused(path, f"It names the module {kind!r}.")
        if not (folder / place).resolve().is_relative_to(home):
            raise _refused(path, f"It names the folder {place!r}.")


def _check_options(path: Path, values: Any, numbers: int) -> None:
    for name, value in _options(values):
        if name in ELSEWHERE:
            raise _refused(path, f"It has the option {name!r}.")
        if name.endswith("implementation") and value not in ATTENTION:
            raise _refused(path, f"{name} = {value!r}.")
        if name == "activation_function" and not str(value).startswith("torch.nn.modules."):
            raise _refused(path, f"{name} = {value!r}.")
        if name == "method" and not re.fullmatch(r"forward|get_\w+_features", str(value)):
            raise _refused(path, f"{name} = {value!r}.")
        if HANDED.fullmatch(name) and not (isinstance(value, dict) and {*value} <= {*PLAIN}):
            raise _refused(path, f"{name} = {value!r}.")
        if type(value) is int and SIZES.fullmatch(name):
            layers = name.endswith("layers") and value > MOST_LAYERS
            if layers or value > max(numbers, 2**20) or (name in SIDES and value**2 > numbers):
                raise _refused(path, f"{name} = {value}, with {numbers} bytes of weights.")


def _options(values: Any) -> Iterator[tuple[str, Any]]:
    """Options by name, those within options included."""
    left = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left += value.values()
        elif isinstance(value, list):
            left += value


def _refused(path: Path, why: str) -> InvalidArgument:
    return invalid("run", "an encoder of modules of sentence-transformers, in safetensors",
                   str(path), why=why)  # fmt: skip
