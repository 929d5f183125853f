"""Loaders never hang in other processes: forked while running, in a DataLoader worker, or in a spawned process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import traceback

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from dali_mix import build_loader
from dali_mix.recordio import RecordSet
from tests.loading.sets import png_set

SOURCES = {"exact": ("imagenet", {}), "cached": ("cifar", {})}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return RecordSet(png_set(tmp_path_factory.mktemp("fork") / "set", 40))


def build(records, source):
    name, options = SOURCES[source]
    shape = {"image_size": 32}
    return build_loader(
        name, records, batch_size=4, train=True, device="cpu", num_threads=2, prefetch=4, pipeline_options=shape,
        **options,
    )  # fmt: skip


def ids(batches):
    return [number for batch in batches for number in batch.ids.tolist()]


def in_child(work):
    """Run `work` in a forked child, which is killed if it hangs and must exit with status 0."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("source", SOURCES)
def test_loader_used_before_fork_works_in_child(records, source):
    straight = build(records, source)
    first, second = ids(straight), ids(straight)
    one = build(records, source)
    batches = iter(one)
    begun = ids([next(batches)])

    def whole():
        assert ids(one) == first
        assert ids(one) == second

    def with_a_grandchild():
        next(iter(one))
        in_child(whole)
        whole()

    def running():
        assert begun + ids(batches) == first

    def a_batch_of_the_parent():
        assert torch.equal(straight_batch.images, kept)
        whole()

    straight_batch = next(iter(straight))
    kept = straight_batch.images.clone()
    for work in (whole, with_a_grandchild, a_batch_of_the_parent, running):
        in_child(work)
    assert begun + ids(batches) == first  # the parent's iterator continues


class Wrapped(IterableDataset):
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


@pytest.mark.parametrize("source", SOURCES)
def test_loader_works_in_data_loader_worker(records, source):
    first = ids(build(records, source))
    one = build(records, source)
    for workers in (0, 1):
        next(iter(one))
        assert ids(DataLoader(Wrapped(one), batch_size=None, num_workers=workers, timeout=60 * workers)) == first
        one.set_epoch(0)


def send(loaders, queue):
    queue.put([ids(one) for one in loaders])


def test_loader_works_in_spawned_process(records):
    loaders = [build(records, source) for source in SOURCES]
    for one in loaders:
        next(iter(one))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=send, args=(loaders, queue))
    process.start()
    assert queue.get(timeout=120) == [ids(one) for one in loaders]
    process.join()
    assert process.exitcode == 0


SCRIPT = """
import os, signal, sys
from tests.loading.test_fork import RecordSet, SOURCES, build
loaders = [build(RecordSet(sys.argv[1]), source) for source in SOURCES]
kept = [next(iter(one)) for one in loaders]
for use in (False, True):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        for one in loaders if use else ():
            next(iter(one))
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0, use
"""


def test_forked_child_exits_without_hanging(records):
    """DALI's exit handlers and the destructors of copied objects must not wait for the parent's threads."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(records.prefix)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["exact", "cached"])
def test_gpu_loader_refuses_forked_child(records, source):
    one = build(records, source)
    next(iter(one))
    one._source._device = torch.device("cuda", 0)  # as if it had been built for a GPU

    def refused():
        with pytest.raises(RuntimeError, match="build the loader in the child"):
            next(iter(one))

    in_child(refused)
    one._source.check_process()
