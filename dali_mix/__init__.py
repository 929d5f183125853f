"""dali_mix: pack images once, feed them through NVIDIA DALI, mix them on the GPU, train and transfer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_mix.loading import build_loader as build_loader

__version__ = "0.1.0"
__all__ = ["__version__", "build_loader"]


def __getattr__(name: str) -> Any:
    # `build_loader` brings torch and DALI with it: loaded when asked for, so that `import dali_mix` stays cheap.
    if name == "build_loader":
        from dali_mix.loading import build_loader

        return build_loader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
