"""f-MICL contrastive losses: this package is the specification, in NumPy; the losses are beside it.

    import fmicl_torch, fmicl_jax or fmicl_tensorflow    losses of one framework
    import fmicl_keras                                    loss, metrics and trainers in Keras
    import fmicl_lightning, fmicl_flax                    trainers in PyTorch Lightning and in Flax
    import fmicl_sentence_transformers                    loss and trainer for sentences
    fmicl --help, in a shell                              train, evaluate, compare, check

Here are divergences, similarities, the objective made of them and its float64 reference; every loss
takes them: `fmicl_torch.FMICLLoss(divergence=fmicl.Tsallis(1.5))`.
"""

from fmicl_core import *  # noqa: F403
from fmicl_core import __all__ as __all__
from fmicl_core import __version__ as __version__


def __dir__() -> list[str]:
    return __all__
