"""Training, evaluation and prediction from recipes. `dali_mix.train` and `dali_mix.evaluate` are in `start`.

Names are imported on first use, so that the command line can read configs before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_mix.engine.config.recipe_files import list_recipes as list_recipes
    from dali_mix.engine.config.recipe_files import load_config as load_config
    from dali_mix.engine.config.schema import RunConfig as RunConfig
    from dali_mix.engine.inference.predict import Detections as Detections
    from dali_mix.engine.inference.predict import Predictions as Predictions
    from dali_mix.engine.inference.predict import Predictor as Predictor
    from dali_mix.engine.inference.predict import predict as predict
    from dali_mix.engine.run import Evaluation as Evaluation
    from dali_mix.engine.scores import SCORES as SCORES
    from dali_mix.engine.scores import Scores as Scores
    from dali_mix.engine.train.callbacks import Callback as Callback
    from dali_mix.engine.train.seeding import derive_seed as derive_seed

_MODULES = {
    "SCORES": "scores",
    "Scores": "scores",
    "Callback": "train.callbacks",
    "Detections": "inference.predict",
    "Evaluation": "run",
    "Predictions": "inference.predict",
    "Predictor": "inference.predict",
    "RunConfig": "config.schema",
    "derive_seed": "train.seeding",
    "list_recipes": "config.recipe_files",
    "load_config": "config.recipe_files",
    "predict": "inference.predict",
}
__all__ = [
    "SCORES",
    "Callback",
    "Detections",
    "Evaluation",
    "Predictions",
    "Predictor",
    "RunConfig",
    "Scores",
    "derive_seed",
    "list_recipes",
    "load_config",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"dali_mix.engine.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
