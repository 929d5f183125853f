"""A pool of decoding worker processes, on one or more machines, shared by any number of trainers; built on Ray.

`dali-mix serve` runs a pool. `connect(address)` returns it for `build_loader(..., workers=...)`; in a recipe, set
`service`. This needs the extra `dali_mix[service]`.
"""

from dali_mix.service.client import RayPool, connect
from dali_mix.service.packing import RayMachines

__all__ = ["RayMachines", "RayPool", "connect"]
