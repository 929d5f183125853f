"""Rank, world size and address from the environment variables of torchrun, a cluster or Slurm."""

import pytest

from dali_mix.engine.distributed import environment as env

SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]"}
SLURM |= {"SLURM_JOB_ID": "100", "SLURM_STEP_ID": "2"}
PLAIN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "expected", "address"),
    [
        ({}, (0, 1, 0), None),
        (PLAIN, (1, 2, 1), ("node7", 29500)),
        ({**PLAIN, "LOCAL_RANK": "0"}, (1, 2, 0), ("node7", 29500)),
        (SLURM, (3, 4, 1), ("gpu07", 21602)),
        ({**SLURM, "MASTER_ADDR": "ib7", "MASTER_PORT": "1234"}, (3, 4, 1), ("ib7", 1234)),
        ({**SLURM, **PLAIN}, (1, 2, 1), ("node7", 29500)),
        ({**SLURM, "WORLD_SIZE": "1"}, (0, 1, 0), None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (0, 1, 0), None),
    ],
)
def test_environment_reads_ranks_and_address(variables, expected, address):
    assert env.environment(variables) == expected
    if address:
        assert env.address(variables) == address


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "2"}, "RANK is 2, but there are 2 ranks"),
        ({"RANK": "-1"}, "RANK must be an integer"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be an integer of at least 1, not 'x'"),
        ({"WORLD_SIZE": ""}, "RANK is 1, but WORLD_SIZE is 1 or not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK must"),
    ],
)
def test_environment_refuses_invalid_variables(change, message):
    with pytest.raises(ValueError, match=message):
        env.environment({**PLAIN, **change})


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [("node7", "node7"), ("a,b", "a"), ("n[1-2],x", "n1"), ("rack[03-07,9]-b[2,4]", "rack03-b2"), ("", "")],
)
def test_first_host(nodelist, first):
    assert env.first_host(nodelist) == first
