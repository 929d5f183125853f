"""dali_mix: pack images once, feed them through NVIDIA DALI, mix them on the GPU, train and transfer."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_mix.loading import build_loader as build_loader

__version__ = "0.1.0"
__all__ = ["__version__", "build_loader"]
_ROOMS = (
    *(
        "recordio",
        "datasets",
        "pipelines",
        "loading",
        "service",
        "mixers",
        "models",
        "losses",
        "metrics",
        "engine",
        "recipes",
    ),
    *("reports", "cli"),
)


def __getattr__(name: str) -> Any:
    # Torch and DALI come with most of these: imported on first use, so that `import dali_mix` stays cheap.
    if name == "build_loader":
        return importlib.import_module("dali_mix.loading").build_loader
    if name in _ROOMS:
        return importlib.import_module(f"dali_mix.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
