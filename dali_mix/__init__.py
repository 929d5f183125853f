"""dali_mix: pack image sets into RecordIO, load them with NVIDIA DALI, mix images, and train models.

The public functions, classes and subpackages (`dali_mix.mixers`, …) are imported on first use, since most of them
import torch and DALI.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dali_mix._version import __version__

if TYPE_CHECKING:
    from dali_mix import cli as cli
    from dali_mix import datasets as datasets
    from dali_mix import engine as engine
    from dali_mix import loading as loading
    from dali_mix import losses as losses
    from dali_mix import metrics as metrics
    from dali_mix import mixers as mixers
    from dali_mix import models as models
    from dali_mix import pipelines as pipelines
    from dali_mix import recipes as recipes
    from dali_mix import recordio as recordio
    from dali_mix import reports as reports
    from dali_mix import service as service
    from dali_mix import tasks as tasks
    from dali_mix.datasets import Writer as Writer
    from dali_mix.datasets import pack as pack
    from dali_mix.engine import Predictor as Predictor
    from dali_mix.engine import load_config as load_config
    from dali_mix.engine.start import evaluate as evaluate
    from dali_mix.engine.start import train as train
    from dali_mix.loading import build_loader as build_loader

# Public name -> module to import it from, relative to dali_mix.
_PUBLIC = {
    "pack": "datasets",
    "Writer": "datasets",
    "build_loader": "loading",
    "load_config": "engine",
    "train": "engine.start",
    "evaluate": "engine.start",
    "Predictor": "engine",
}
_MODULES = (
    *("cli", "datasets", "engine", "loading", "losses", "metrics", "mixers"),
    *("models", "pipelines", "recipes", "recordio", "reports", "service", "tasks"),
)
__all__ = ["Predictor", "Writer", "__version__", "build_loader", "evaluate", "load_config", "pack", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"dali_mix.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"dali_mix.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
