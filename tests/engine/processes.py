"""Engine runs in separate processes, forked from one that has loaded torch: killed, resumed, or on several ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # preloaded once; otherwise the first optimizer of each run imports it

from dali_mix.engine.checkpoint import files
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed import process_group
from dali_mix.engine.run import train
from dali_mix.engine.train.trainer import Trainer
from tests.engine import synthetic

PREEMPTED, INTERRUPTED = 75, 130


def context():
    """Return a forkserver context that preloads this module, so a run starts within milliseconds."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.engine.processes"])
    return made


def child(values, work_dir, env, options):
    """Run one rank in this process, then end it. `options` select what happens to it, such as "kill_at"."""
    os.environ.update(env)
    torch.set_num_threads(1)
    log = (Path(work_dir).parent / f"{Path(work_dir).name}-rank{env.get('RANK', 0)}.txt").open("a", buffering=1)
    sys.stdout = sys.stderr = log
    rank = int(env.get("RANK", 0))

    observe = Trainer.observe

    def killed(trainer):  # after the step was saved, if a save is due
        observe(trainer)
        if trainer.step == options.get("kill_at") and rank == options.get("kill_rank", rank):
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.observe = killed

    def observer(trainer):
        if trainer.step == options.get("term_at"):
            os.kill(os.getpid(), signal.SIGTERM)
        if trainer.step == options.get("interrupt_at"):
            for _ in range(options.get("interrupts", 1)):
                os.kill(os.getpid(), signal.SIGINT)
        if options.get("slow"):
            time.sleep(options["slow"])

    if "kill_in_save" in options:
        sync = os.fsync

        def dying_sync(handle):
            options["kill_in_save"] -= 1
            if options["kill_in_save"] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)

        files.os.fsync = dying_sync
    if "term_at_end" in options:
        leave = process_group.dist.destroy_process_group

        def terminated():
            os.kill(os.getpid(), signal.SIGTERM)
            leave()

        process_group.dist.destroy_process_group = terminated
    make = functools.partial(synthetic.make_loaders, nan_at=options.get("nan_at", ()), bad=options.get("bad", ()))
    make = None if options.get("packed") else make  # None: the packed sets that the recipe names
    if options.get("term_in_evaluation") == rank:
        make = functools.partial(terminated_in_evaluation, make)
    config = make_config(values)
    if options.get("given"):  # pass loaders in the config, as a user would
        ranks = process_group.Ranks(rank, int(env.get("WORLD_SIZE", 1)), torch.device("cpu"))
        train_loader, val_loader = make(config, ranks)
        config, make = dataclasses.replace(config, train_set=train_loader, val_set=val_loader), None
    try:
        status = train(config, work_dir, resume=options.get("resume", "no"), make_loaders=make, callbacks=[observer])
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}")
        log.flush()
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(-signal.SIGINT & 0xFF)
    log.flush()
    os._exit({"preempted": PREEMPTED, "interrupted": INTERRUPTED}.get(status, 0))


def terminated_in_evaluation(make, config, ranks):
    """Return `make`'s loaders; each evaluation batch sends SIGTERM to this process."""
    train_loader, val_loader = make(config, ranks)
    take = val_loader._batch

    def batch(ids):
        os.kill(os.getpid(), signal.SIGTERM)
        return take(ids)

    val_loader._batch = batch
    return train_loader, val_loader


def free_port():
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(values, work_dir, *, ranks=1, **options):
    """Start a run's processes and return them."""
    started, port, given = [], free_port(), options.pop("env", {})
    for rank in range(ranks):
        env = dict(given)
        if ranks > 1:
            env |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        process = context().Process(target=child, args=(values, str(work_dir), env, options))
        process.start()
        started.append(process)
    return started


def finish(processes, seconds=60):
    """Wait at most `seconds` for the processes; return their exit codes, None for those that had to be killed."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(end - time.monotonic(), 0.1))
    codes = [process.exitcode for process in processes]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return codes


def run(values, work_dir, **options):
    """Start a run and wait until it ends; return the exit codes by rank."""
    return finish(start(values, work_dir, **options))


def output_of(work_dir, rank=0):
    """Return the output of a rank, over all runs in `work_dir`."""
    return (Path(work_dir).parent / f"{Path(work_dir).name}-rank{rank}.txt").read_text()


def newest_state(work_dir):
    """Return the content of the newest checkpoint."""
    folder = Path(work_dir) / "checkpoints"
    return files.load_checkpoint(folder / (folder / "latest").read_text().strip())


def records(work_dir, name="metrics.jsonl"):
    """Return the records of a .jsonl file without the fields that depend on the clock."""
    found = [json.loads(line) for line in (Path(work_dir) / name).read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("images_per_s", "wait_share")} for r in found]


def losses(work_dir):
    """Return the logged training losses as float64."""
    return torch.tensor([r["loss"] for r in records(work_dir) if r["kind"] == "train"], dtype=torch.float64)


def assert_same(one, two, where="state"):
    """Assert recursively that tensors are bit-equal and all other values are equal."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), f"{where} differs by {(one.double() - two.double()).abs().max()}"
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    else:
        assert one == two, f"{where}: {one} != {two}"


def assert_same_run(one, two):
    """Assert that two work directories hold the same run: newest checkpoint, metrics and logs of ids."""
    assert_same(newest_state(one), newest_state(two))
    assert records(one) == records(two)
    names = sorted(p.name for p in Path(one).glob("ids-rank*.jsonl"))
    assert names
    assert names == sorted(p.name for p in Path(two).glob("ids-rank*.jsonl"))
    for name in names:
        assert records(one, name) == records(two, name)
