"""`MultiLabelMetrics.gather` across two processes."""

import multiprocessing
import socket
import time

import torch
import torch.distributed as dist

from dali_mix.metrics import MultiLabelMetrics
from tests.metrics.counting import assert_equal, draw, measure


def rank_process(rank, port, out):
    """Run one of two ranks and put its results into the queue `out`.

    First 40 samples are on rank 0 and the others on rank 1, then two samples only on rank 1, then one on each.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    scores, targets, ids = draw()
    mine = ids.argsort()[40:] if rank else ids.argsort()[:40].flip(0)
    metrics = MultiLabelMetrics(5)
    for rows in mine.split(7 + rank):
        metrics.update(scores[rows], targets[rows], ids[rows])
    metrics.gather()
    few = MultiLabelMetrics(5)
    if rank:
        few.update(scores[:2], targets[:2])
    few.gather()
    tied = MultiLabelMetrics(1, ties="order")
    tied.update(torch.tensor([[0.75]]), torch.tensor([[1 - rank]]))
    tied.gather()
    out.put((rank, metrics.compute(), few.compute(), tied.compute()))
    dist.destroy_process_group()


def test_two_ranks_equal_one_process_exactly():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.metrics.test_multilabel_ranks"])
    out = context.Queue()
    processes = [context.Process(target=rank_process, args=(rank, port, out)) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + 60
    results = {rank: found for rank, *found in (out.get(timeout=end - time.monotonic()) for _ in processes)}
    for process in processes:
        process.join(max(end - time.monotonic(), 0.1))
    assert [process.exitcode for process in processes] == [0, 0]
    scores, targets, ids = draw()
    for whole, few, tied in results.values():
        assert_equal(whole, measure(scores, targets, ids))
        assert_equal(few, measure(scores[:2], targets[:2]))
        assert tied["AP"] == [1.0], "without ids the samples of rank 0 come first"
