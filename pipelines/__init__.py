"""Pipelines: random draws for each record, and the DALI graph that uses them.

`get(name)` finds a bundled pipeline class, one that an installed package registers as an entry point of the group
"dali_mix.pipelines" (NAME = module:Class), or "module:Class"; `build(name, train, options)` constructs it.
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
