"""f-MICL for Keras: loss, metrics, a two-view model and trainers; on every backend."""

from fmicl_keras.build import build_method
from fmicl_keras.encoders import build_encoder
from fmicl_keras.train import MethodTrainer
