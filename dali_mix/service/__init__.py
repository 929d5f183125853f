"""Decode once, in a pool of worker processes on one machine or many, for any number of trainers; built on Ray.

`dali-mix serve` runs a pool. `connect(address)` returns it for `build_loader(..., workers=...)`, and the recipe's key
`service` does so for the trainer. Needs the extra `dali_mix[service]`.
"""

from dali_mix.service.client import RayPool, connect
from dali_mix.service.packing import RayMachines

__all__ = ["RayMachines", "RayPool", "connect"]
