"""The device of a rank, and how ranks leave the process group."""

import contextlib
from unittest import mock

import pytest
import torch

from dali_mix.engine.distributed import process_group
from dali_mix.engine.distributed.process_group import Ranks, pick_device

PLAIN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("gpus", "expected"), [(1, "cuda:0"), (4, "cuda:3"), (2, "there are 2 GPUs")])
def test_pick_device_without_local_rank(monkeypatch, gpus, expected):
    """A rank that sees a single GPU, as in a container or a Slurm task, uses it regardless of its rank."""
    for name, value in {**PLAIN, "RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    try:
        found = str(pick_device("auto"))
    except ValueError as error:
        found = str(error)
    assert expected in found


def test_process_group_is_destroyed_only_after_success(monkeypatch):
    """NCCL's shutdown waits for ranks that may be waiting for this one, so after an error the process skips it."""
    calls = []
    store = mock.MagicMock()
    store.reporting = contextlib.nullcontext
    monkeypatch.setattr(process_group, "environment", lambda: (1, 2, 1))
    monkeypatch.setattr(process_group, "address", lambda: ("127.0.0.1", 1))
    monkeypatch.setattr(process_group, "Rendezvous", lambda *place: store)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: calls.append("wait"))
    for name in ("PrefixStore", "init_process_group", "destroy_process_group"):
        monkeypatch.setattr(process_group.dist, name, lambda *a, name=name, **k: calls.append(name))
    with pytest.raises(ValueError, match="bad record"), process_group.joined(lambda: (CPU, {})):
        raise ValueError("bad record")
    assert calls == ["PrefixStore", "init_process_group"]
    with process_group.joined(lambda: (CPU, {"seed": "1"})) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.device) == (1, 2, CPU)
    assert calls[2:] == ["PrefixStore", "init_process_group", "wait", "destroy_process_group"]
    store.compare.assert_called_with({"WORLD_SIZE": "2", "seed": "1"})


def test_existing_process_group_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_group.dist, "is_initialized", lambda: True)
    refused = pytest.raises(ValueError, match=r"already initialized: do not call init_process_group")
    with refused, process_group.joined(lambda: (CPU, {})):
        pass
