"""Read the rank, the world size and the address of rank 0 from variables set by torchrun, a cluster or srun.

This module does not import torch, since the command line uses it before torch is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping


def environment(variables: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Return (rank, world_size, local_rank); (0, 1, 0) for a single process.

    The values are those of RANK, WORLD_SIZE and LOCAL_RANK (default: RANK). If neither RANK nor WORLD_SIZE is set, a
    Slurm step uses SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID. With WORLD_SIZE=1, each task of a Slurm step
    is a separate run.

    Raises:
        ValueError: a variable is not a number, the rank is not between 0 and WORLD_SIZE - 1, or a variable that several
            ranks need is missing: RANK, MASTER_ADDR and MASTER_PORT, or in a Slurm step SLURM_PROCID.
    """
    names = _names(variables)
    world_size = integer(variables, names[1], 1, least=1)
    if world_size == 1:
        if integer(variables, names[0], 0):
            raise ValueError(f"RANK is {variables['RANK']}, but WORLD_SIZE is 1 or not set: set WORLD_SIZE as well")
        return 0, 1, 0
    required = (names[0],) if _by_slurm(variables) else (names[0], "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in required if not variables.get(name)]:
        raise ValueError(
            f"{names[1]} is {world_size} but {', '.join(missing)} is not set: start with scripts/train_dist.sh or "
            f"torchrun, or set it (docs/clusters.md)"
        )
    rank = integer(variables, names[0])
    if rank >= world_size:
        raise ValueError(
            f"{names[0]} is {rank}, but there are {world_size} ranks: must be from 0 to {world_size - 1} "
            f"(for scripts/train_dist.sh NODE_RANK from 0 to NNODES - 1)"
        )
    return rank, world_size, integer(variables, names[2], rank)


def address(variables: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return (host, port) of rank 0, from MASTER_ADDR and MASTER_PORT.

    In a Slurm step, they default to the step's first node and to a port derived from the ids of the job and the step.
    Otherwise the host defaults to "", and MASTER_PORT is required.

    Raises:
        ValueError: MASTER_PORT is missing or not a number from 1 to 65535, or a Slurm id is not a number.
    """
    host, port = variables.get("MASTER_ADDR", ""), 0
    if _by_slurm(variables):
        host = host or first_host(variables["SLURM_STEP_NODELIST"])
        step = integer(variables, "SLURM_JOB_ID", 0) * 16 + integer(variables, "SLURM_STEP_ID", 0)
        port = 20000 + step % 20000  # jobs on one machine use different ports
    port = integer(variables, "MASTER_PORT", port, least=1)
    if port > 65535:
        raise ValueError(f"MASTER_PORT must be from 1 to 65535, not {port}")
    return host, port


def first_host(nodelist: str) -> str:
    """Return the first name in a Slurm node list: "rack[03-07,9],big" → "rack03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "")


def _by_slurm(variables: Mapping[str, str]) -> bool:
    return not variables.keys() & {"RANK", "WORLD_SIZE"} and "SLURM_STEP_NUM_TASKS" in variables


def _names(variables: Mapping[str, str]) -> tuple[str, str, str]:
    if _by_slurm(variables):
        return "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"
    return "RANK", "WORLD_SIZE", "LOCAL_RANK"


def integer(variables: Mapping[str, str], name: str, default: int = 0, least: int = 0) -> int:
    """Return the environment variable `name` as an int, or `default` if it is empty or not set.

    Raise ValueError unless the result is an integer of at least `least` with at most nine digits. A `default` below
    `least` therefore makes the variable required.
    """
    text = variables.get(name) or str(default)
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
        raise ValueError(f"the environment variable {name} must be an integer of at least {least}, not {text!r}")
    return int(text)
