"""Data loading: the order of samples, their split among ranks, and a loader that runs a pipeline and yields batches."""

from dali_mix.loading.batch import Batch
from dali_mix.loading.build import build_loader
from dali_mix.loading.loader import Loader
from dali_mix.loading.stats import Stats

__all__ = ["Batch", "Loader", "Stats", "build_loader"]
