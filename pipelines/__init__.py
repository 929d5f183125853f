"""Pipelines: random draws for each record, and the DALI graph that uses them.

`get(name)` returns a pipeline class, and `build(name, train, options)` constructs the pipeline. A name is one of:

- the name of a bundled pipeline
- the name of an entry point that an installed package registers in the group "dali_mix.pipelines" (NAME = module:Class)
- "module:Class"
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
