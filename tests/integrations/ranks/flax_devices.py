"""Train on one device and on all; print the losses of either and how many images a device had.

Run by tests of fmicl_flax.
"""

import dataclasses
import json
import sys
import tempfile

import jax
import numpy as np

from fmicl_core import forms
from fmicl_flax import MethodTrainer, trainer
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.data import load_images

step = trainer.train_step
forms.DENSE_PAIRS = 0  # the ring, as of a large batch


def watch(settings):
    """Losses of a short run, and how many images each array on each device had in its last step."""
    losses, images = [], []

    def watched(*given):
        state, contrast = step(*given)
        held = [array for array in jax.live_arrays() if array.dtype == np.uint8]
        parts = [part for array in held for part in array.addressable_shards]
        # A part that was looked at before is an array by itself from then on, of the same memory;
        # of which host devices may have one copy together.
        images[:] = {
            (part.device, part.data.unsafe_buffer_pointer()): len(part.data) for part in parts
        }.values()
        losses.append(float(contrast[0]))
        return state, contrast

    trainer.train_step = watched
    run_of = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(f"{folder}/run", settings)
        run_of.fit(run, resume=False, progress=False)
    return losses, images


settings = TrainSettings.from_dict(json.loads(sys.argv[1]))
several = dataclasses.replace(settings, devices=len(jax.devices()))
losses, images = zip(watch(settings), watch(several), strict=True)
imported = [name for name in ("tensorflow", "torch", "keras") if name in sys.modules]
print(json.dumps({"losses": losses, "images": images, "frameworks": imported}))
