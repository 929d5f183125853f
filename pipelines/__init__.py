"""Pipelines: what a task draws at random and its DALI graph.

`get(name)` finds a pipeline's class among ours and among those that installed packages offer by an entry point of the
group "dali_mix.pipelines" (NAME = module:Class), or as "module:Class"; `build(name, train, options)` makes one.
"""

from dali_mix.pipelines.base import Step
from dali_mix.pipelines.cifar import STATISTICS as CIFAR_STATISTICS
from dali_mix.pipelines.normalization import normalize
from dali_mix.pipelines.pipeline import CachedPipeline, Pipeline
from dali_mix.pipelines.plugins import BUILTIN, build, get
from dali_mix.pipelines.random import SampleRandom

__all__ = [
    "BUILTIN",
    "CIFAR_STATISTICS",
    "CachedPipeline",
    "Pipeline",
    "SampleRandom",
    "Step",
    "build",
    "get",
    "normalize",
]
