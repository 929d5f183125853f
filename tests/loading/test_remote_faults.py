"""`RemoteSource` with failing workers, on a simulated clock: waiting times, choice of workers, messages."""

import functools
import itertools
import logging
from types import SimpleNamespace

import pytest

from dali_mix.loading import remote
from dali_mix.loading.workers import WorkerDied
from tests.loading.fake_workers import FakeWorkers, Worker, answer
from tests.loading.remote_sources import check, expected_keys, run, schedule_of, source_of

FAULTS = {
    "frozen": (["w1"], {"frozen": True}),
    "gone": (["w1"], {"gone": True}),
    "unlisted": (["w1"], {"gone": True, "listed": False}),
    "half": (["w0", "w1", "w2"], {"frozen": True}),
    "one left": (["w0", "w1", "w2", "w3", "w4"], {"frozen": True}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("pause", [0.0, 0.05, 2.5])
@pytest.mark.parametrize("batch", [8, 64, 512])
def test_worker_fault_delays_steps_only_briefly(fault, pause, batch):
    for seed in range(4):
        workers = FakeWorkers(6, seed=seed)
        schedule = schedule_of(3072, batch)
        source = source_of(workers, schedule)
        run(source, schedule, workers, 1024 // batch, pause=lambda: pause)
        names, state = FAULTS[fault]
        for name in names:
            workers.later(0.07, functools.partial(workers.change, name, **state))
        took = run(source, schedule, workers, 2048 // batch, pause=lambda: pause, position=1024)
        assert max(took) <= {1: 2.0, 3: 4.5, 5: 16.5}[len(names)], (seed, took)
        assert sum(second > 0.5 for second in took) <= 1 + len(names) * (workers.clock.now - 1000) / 5


def test_frozen_worker_is_avoided_then_used_again():
    workers = FakeWorkers({name: Worker((0.01, 0.02)) for name in "abc"})
    schedule = schedule_of(64 * 500, 64)
    source = source_of(workers, schedule)
    workers.later(0.2, lambda: workers.change("b", frozen=True))
    run(source, schedule, workers, 480)
    asked = [time for time, name, _ in workers.log if name == "b" and time > 1000.3]
    bursts = 1 + sum(later - earlier > 4.9 for earlier, later in itertools.pairwise(asked))
    assert len(asked) <= 5 * bursts and bursts <= 1 + (workers.clock.now - 1000) / 5
    workers.later(0, lambda: workers.change("b", frozen=False))
    source.close()
    workers.clock.now += 6
    del workers.log[:]
    run(source, schedule, workers, 60)
    assert 10 < sum(name == "b" for _, name, _ in workers.log) < 40  # treated like the others


def test_slow_single_worker_gets_each_question_once(caplog):
    workers = FakeWorkers({"a": Worker((40, 60), serial=True)})
    schedule = schedule_of(640, 16)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 30)
    assert max(workers.asked.values()) == 1 and source.second_asks == 0
    assert {record.msg for record in caplog.records} == {remote.WARNINGS[True]}


def test_second_requests_stop_once_latency_is_learned():
    workers = FakeWorkers({name: Worker((0.15, 0.2)) for name in "abcdef"})
    schedule = schedule_of(64000, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 100)
    assert source.second_asks == 0
    for worker in workers.workers.values():
        worker.latency = (1.2, 1.6)
    run(source, schedule, workers, 100, position=6400)
    assert 0 < source.second_asks < 60
    before = source.second_asks
    run(source, schedule, workers, 300, position=12800)
    assert source.second_asks == before


@pytest.mark.parametrize("one_by_one", [False, True])
def test_slow_trainer_does_not_distort_worker_latency(one_by_one):
    workers = FakeWorkers(4, one_by_one=one_by_one)
    schedule = schedule_of(6400, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 40, pause=lambda: 30.0)
    assert source.second_asks == 0 and source.waited < 1
    workers.change("w0", frozen=True)
    took = run(source, schedule, workers, 50, pause=lambda: 0.01, position=2560)
    assert max(took) < 1.5


def test_lost_question_is_retried_with_backoff():
    """A lost question goes to another worker immediately; after further losses, to any worker at growing intervals."""
    workers = FakeWorkers({"a": Worker((0, 0)), "b": Worker((0, 0))}, losing=1.0)
    source = source_of(workers, schedule_of(64, 64), timeout=60.0)
    with pytest.raises(
        RuntimeError, match=r"no answer from any worker for 6\d s.*resume the training.*64 records, \[\d+, .* epoch 0"
    ):
        source.fetch(0, 0)
    first = workers.log[0][2].key
    times = [time - 1000 for time, _, question in workers.log if question.key == first]
    assert times[:5] == pytest.approx([0, 0, 0.1, 0.3, 0.7]) and 15 < len(times) < 25
    assert [name for _, name, question in workers.log if question.key == first][:2] in (["a", "b"], ["b", "a"])
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) == pytest.approx(5)


def crashing_pool(record, unlisted=0.0):
    """Return a pool of one worker whose process dies at each chunk that contains `record`.

    All questions pending at this worker are lost, and it is not listed for the next `unlisted` seconds.
    """

    def crash(question):
        if record not in question.rows:
            return answer(question)
        for ticket in list(workers._open):
            workers.drop(ticket)
            workers._ready.append((ticket, WorkerDied("with another question")))
        workers.change("w0", listed=not unlisted)
        workers.later(unlisted, lambda: workers.change("w0", listed=True))
        return WorkerDied("socket closed")

    workers = FakeWorkers(1, answer=crash)
    return workers


@pytest.mark.parametrize("seed", range(5))
def test_record_that_crashes_workers_is_named_in_error(seed):
    """The error does not name other chunks that were lost with the process. The preceding steps are returned."""
    workers, schedule = crashing_pool(200), schedule_of(640, 64, train=False)
    workers.random.seed(seed)
    source = source_of(workers, schedule)
    with pytest.raises(RuntimeError) as error:
        run(source, schedule, workers, 10)
    assert str(error.value) == (
        "set: 4 times a worker's process died while it decoded these 64 records of epoch 0:"
        f" {list(range(192, 256))}. One of them crashes the decoder or a step of the pipeline, as it would crash the"
        " trainer without a pool, or the workers' machines lack memory"
    )
    assert sum(200 in question.rows for _, _, question in workers.log) == remote.DEATHS
    assert workers.closed == 1 and not workers.under_way


def test_record_that_crashed_workers_is_not_decoded_locally():
    workers, schedule, here = crashing_pool(200, unlisted=6.0), schedule_of(640, 64, train=False), []

    def decode(question):
        here.extend(question.rows.tolist())
        workers.clock.now += 0.2
        return answer(question)

    local = SimpleNamespace(answer=decode, num_threads=2, close=lambda: None)
    source = source_of(workers, schedule, local=local)
    with pytest.raises(RuntimeError, match=r"^set: 4 times a worker's process died .* 200, "):
        run(source, schedule, workers, 10)
    assert 200 not in here and workers.clock.now > 1000 + remote.ALONE


def test_fetch_waits_for_workers_and_warns_once(caplog):
    workers = FakeWorkers(1)
    workers.change("w0", listed=False)
    workers.later(300, lambda: workers.change("w0", listed=True))
    schedule = schedule_of(640, 64)
    source = source_of(workers, schedule)
    with caplog.at_level(logging.WARNING):
        took = run(source, schedule, workers, 5)
    assert 300 <= took[0] < 301 and max(took[1:]) < 1 and source.waited == pytest.approx(sum(took))
    (said,) = caplog.messages
    assert said == "no worker for 30 s: start one with `dali-mix serve --join ADDRESS`"
    assert workers.refused < 40_000  # polled about ten times a second
    caplog.clear()
    workers.change("w0", listed=False)  # a later outage is reported again
    workers.later(40, lambda: workers.change("w0", listed=True))
    run(source, schedule, workers, 5, position=320)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("state", "words"), [("listed", "no worker for 6"), ("frozen", "no answer from any worker")])
def test_fetch_times_out_and_later_recovers(state, words):
    workers = FakeWorkers(2)
    schedule = schedule_of(640, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 1)
    workers.clock.now += 5  # pending chunks arrive and are fetched below
    for name in workers.workers:
        workers.change(name, **{state: state != "listed"})
    begun = workers.clock.now
    with pytest.raises(RuntimeError, match=words):
        for position in range(64, 640, 64):
            source.fetch(0, position)
    assert 600 < workers.clock.now - begun < 602
    for name in workers.workers:
        workers.change(name, **{state: state == "listed"})
    run(source, schedule, workers, 4, position=position)


@pytest.mark.parametrize("state", ["listed", "frozen", "gone"])
def test_source_decodes_locally_while_no_worker_answers(state, caplog):
    schedule, workers, here = schedule_of(640, 64), FakeWorkers(2), []

    def decode(question):
        here.append(question.key)
        workers.clock.now += 0.2
        return answer(question)

    source = source_of(workers, schedule, local=SimpleNamespace(answer=decode, num_threads=2))
    keys = expected_keys(schedule, 10)
    run(source, schedule, workers, 1)
    workers.clock.now += 5  # pending chunks arrive
    for name in workers.workers:
        workers.change(name, **{state: state != "listed"})
    with caplog.at_level(logging.WARNING):
        took = run(source, schedule, workers, 6, position=64)
        assert set(keys[5:7]) <= set(here) and here == [key for key in keys[1:7] if key in here]
        assert remote.ALONE < max(took) < remote.ALONE + 1.5
        assert sum(took) == pytest.approx(max(took) + 0.2 * (len(here) - 1)), "it waits once, not at each step"
        for name in workers.workers:
            workers.change(name, **{state: state == "listed"})
        workers.clock.now += 10
        run(source, schedule, workers, 3, position=7 * 64)
    assert keys[9] not in here
    said = ["no answer from any worker for 10 s: decoding here", "workers answer again"]
    assert caplog.messages == said


def test_slow_workers_recover_without_backlog():
    schedule, workers = schedule_of(6400, 64), FakeWorkers({name: Worker((0.5, 0.5), serial=True) for name in "ab"})

    def decode(question):
        workers.clock.now += 0.05
        return answer(question)

    source = source_of(workers, schedule, local=SimpleNamespace(answer=decode, num_threads=2))
    run(source, schedule, workers, 1)
    for name in "ab":
        workers.change(name, frozen=True)
    run(source, schedule, workers, 40, position=64)
    before = len(workers.log)
    assert source.threads == 2
    for name in "ab":
        workers.change(name, frozen=False)
    run(source, schedule, workers, 30, position=41 * 64)
    assert len(workers.log) - before <= 30 + remote.WINDOW + 2, "each chunk is asked for once"
    assert source.threads == 0 and max(worker.free for worker in workers.workers.values()) < workers.clock.now + 3


def test_warning_and_error_describe_current_problem(caplog):
    """Workers that are unreachable at first and then do not answer are not reported as missing."""
    workers = FakeWorkers(1)
    workers.change("w0", listed=False, frozen=True)
    workers.later(10, lambda: workers.change("w0", listed=True))
    with pytest.raises(RuntimeError, match="no answer from any worker"):
        source_of(workers, schedule_of(64, 64), timeout=50.0).fetch(0, 0)
    assert caplog.messages == ["no answer from any worker for 30 s: `dali-mix serve --status` shows what they do"]


def test_worker_error_is_raised_and_requests_dropped():
    failing = [True]

    def sometimes(question):
        return OSError("the disk is gone") if failing[0] and question.epoch == 0 else answer(question)

    workers = FakeWorkers(2, answer=sometimes)
    schedule = schedule_of(640, 64)
    source = source_of(workers, schedule)
    with pytest.raises(OSError, match="the disk is gone"):
        source.fetch(0, 0)
    assert workers.closed == 1 and not workers.under_way
    failing[0] = False
    run(source, schedule, workers, 12)


def interrupted(left, call):
    """Wrap `call` to raise KeyboardInterrupt when the countdown `left[0]` reaches 0."""

    def called(*args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return call(*args)

    return called


@pytest.mark.parametrize("where", ["wait", "ask", "order", "clock"])
@pytest.mark.parametrize("train", [True, False])
def test_interrupted_fetch_can_be_repeated(where, train):
    for moment in range(0, 60, 2):
        workers = FakeWorkers(3, seed=moment)
        schedule = schedule_of(150, 20, train=train)
        source, left = source_of(workers, schedule), [moment]
        interrupt = functools.partial(interrupted, left)
        workers.before_wait = interrupt(workers.before_wait) if where == "wait" else workers.before_wait
        workers.ask = interrupt(workers.ask) if where == "ask" else workers.ask
        source._clock = interrupt(source._clock) if where == "clock" else source._clock
        source._order = interrupt(source._order) if where == "order" else source._order
        times = 0
        for step in itertools.islice(schedule.steps_from(0, 0), 16):
            try:
                fetched = source.fetch(step.epoch, step.start)
            except KeyboardInterrupt:
                times += 1
                fetched = source.fetch(step.epoch, step.start)
            check(fetched, step)
        assert times == (left[0] <= 0 < moment)
        # no pending question is lost, except for an answer that was being received
        assert max(workers.asked.values()) <= 1 + (where == "clock")


def test_pool_error_propagates_without_losing_steps():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 2)

    def fail():
        raise ConnectionError("head node")

    calm, workers.before_wait = workers.before_wait, fail
    with pytest.raises(ConnectionError):
        for position in range(128, 640, 64):
            source.fetch(0, position)
    workers.before_wait = calm
    run(source, schedule, workers, 5, position=position)
    assert max(workers.asked.values()) == 1
