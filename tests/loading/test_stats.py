"""`loader.stats()`: how the time is spent, and the description of the bottleneck."""

import copy
import dataclasses
import time

import pytest

from dali_mix import build_loader
from dali_mix.loading import Stats
from dali_mix.loading.stats import LOADING, Clock
from tests.loading.fake_workers import FakeWorkers
from tests.loading.remote_sources import loader_of, schedule_of, source_of
from tests.loading.sets import png_set


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return png_set(tmp_path_factory.mktemp("stats") / "set", 40)


def loader_on(prefix, pipeline="imagenet", **options):
    return build_loader(
        pipeline, prefix, batch_size=8, train=True, device="cpu", pipeline_options={"image_size": 32}, **options
    )


def test_nested_part_pauses_outer_part(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock()  # 0
    clock.switch("other")  # 1
    with clock.part("dali"), clock.part("reading"):  # 3, 6
        pass  # reading ends at 10, dali at 15
    assert clock.seconds == {"other": 2.0, "dali": 3.0 + 5.0, "reading": 4.0}


def test_stats_cover_one_epoch(prefix):
    loader, begun = loader_on(prefix), time.perf_counter()
    assert loader.stats().limit == "nothing was loaded yet"
    for _ in loader:
        time.sleep(0.01)
    first, took = loader.stats(reset=True), time.perf_counter() - begun
    assert (first.batches, first.images, first.service, first.threads) == (5, 40, 0.0, loader._source.threads)
    assert min(first.reading, first.checking, first.drawing, first.dali, first.finishing, first.other) > 0
    assert first.outside >= 0.05
    assert first.waiting + first.outside == first.seconds <= took
    assert first.images_per_second == pytest.approx(40 / first.seconds)
    assert loader.stats().batches == 0
    time.sleep(0.05)  # time between epochs is not counted
    for _ in loader:
        pass
    second = loader.stats()
    assert (second.batches, second.checking) == (5, 0.0), "checksums are compared once"
    assert second.outside < 0.05


def test_time_after_abandoned_loop_is_not_counted(prefix):
    loader = loader_on(prefix)
    next(iter(loader))
    seconds = loader.stats().seconds
    time.sleep(0.02)
    assert loader.stats().seconds == seconds
    assert len(list(loader)) == 5
    assert loader.stats().batches == 6
    assert len(list(copy.deepcopy(loader))) == 5


def test_in_memory_set_spends_no_time_in_dali(tmp_path):
    png_set(tmp_path / "set", 40, lambda number: (32, 32))
    loader = loader_on(tmp_path / "set", "cifar")
    list(loader)
    stats = loader.stats()
    assert stats.drawing > 0 and stats.finishing > 0 and stats.dali == 0, "decoding the set is not counted in an epoch"


def test_pool_time_is_counted_as_service():
    workers = FakeWorkers(2)
    loader = loader_of(source_of(workers, schedule_of(64)), schedule_of(64))
    list(loader)
    assert loader.stats().service > 0
    assert loader.stats().threads == 0


NOTHING = Stats(10, 640, *[0.0] * len(LOADING), outside=0.0, cores=2.0, threads=2, page_reads=0)


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        ({"outside": 1.0, "dali": 0.05}, "the loop that consumes the batches: it waits for them only 4.8% of the time"),
        ({"outside": 1.0, "dali": 0.06}, "decoding and the pipeline's steps, on 2 threads (2.0 of"),
        ({"dali": 1.0, "cores": 1.3}, "the cores: decoding on 2 threads gets only 1.3 of them"),
        ({"dali": 1.0, "cores": 1.3, "page_reads": 200}, "the disk: 0.3 reads per image while 1.3 cores are busy"),
        ({"dali": 1.0, "cores": 1.9, "page_reads": 200}, "decoding"),
        ({"checking": 1.0, "dali": 0.5}, "checksums, which are verified once"),
        ({"service": 1.0, "finishing": 0.5}, "the pool of workers"),
        ({"drawing": 1.0, "dali": 0.5}, "drawing, in Python"),
    ],
)
def test_limit_names_bottleneck(found, limit):
    assert dataclasses.replace(NOTHING, **found).limit.startswith(limit)


def test_cpu_time_between_epochs_is_not_counted(prefix):
    loader = loader_on(prefix)
    list(loader)
    before = loader.stats()
    assert before.cores > 0
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert loader.stats() == before


def test_stats_of_copied_loader_start_at_zero(prefix):
    loader = loader_on(prefix)
    next(iter(loader))
    again = copy.deepcopy(loader)
    assert again.stats().batches == 0 and again.stats().seconds == 0.0
    list(again)
    assert again.stats().batches == 5 and 0 <= again.stats().cores < 1000 and again.stats().page_reads >= 0


def test_reset_inside_loop_counts_the_remaining_batches(prefix):
    loader = loader_on(prefix)
    for step, _ in enumerate(loader):
        if step == 1:
            loader.stats(reset=True)
            time.sleep(0.02)
    assert loader.stats().batches == 3 and loader.stats().outside >= 0.02
