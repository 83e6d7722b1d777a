"""Train on one device and on all, and print the losses of either: run by tests of fmicl_flax."""

import dataclasses
import json
import sys
import tempfile

import jax

from fmicl_flax import MethodTrainer
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.data import load_images


def losses(settings):
    trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    seen = []
    steps = trainer._steps
    trainer._steps = lambda *given: (seen.append(float(c[0])) or c for c in steps(*given))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(f"{folder}/run", settings)
        trainer.fit(run, resume=False, progress=False)
    return seen


settings = TrainSettings.from_dict(json.loads(sys.argv[1]))
several = dataclasses.replace(settings, devices=len(jax.devices()))
told = [losses(settings), losses(several)]
imported = [name for name in ("tensorflow", "torch", "keras") if name in sys.modules]
print(json.dumps({"losses": told, "frameworks": imported}))
