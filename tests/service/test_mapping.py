"""Late, lost and failing tries of `RayMachines.map`: Ray, its machines and their clocks are stand-ins."""

import itertools
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from dali_mix import _machines
from dali_mix.service import cluster, packing
from dali_mix.service.packing import RayMachines
from dali_mix.service.spec import versions
from tests.service.stand_ins import RayError, RayTaskError, errors

FROZEN = ()


class Stream:
    """Stand-in for the results of a try, which become ready at the times in its script."""

    def __init__(self, ray, node, script):
        self.node, self.begun, self.cancelled = node, ray.now, False
        self._ray, self._script = ray, list(script)

    def ready(self):
        return bool(self._script) and self._ray.now >= self.begun + self._script[0][0]

    def __next__(self):
        return self._script.pop(0)[1]

    def completed(self):
        return "completed"


class Ray:
    """Stand-in for Ray with machines and slots. Tries follow `scripts[shard][try]`.

    A script is [(seconds since the try began, what it yields or raises), …]. `sees` maps a machine to the answer to its
    check: (host name, versions, missing paths) or an error.
    """

    exceptions = errors

    def __init__(self, slots, scripts):
        self.slots, self.scripts, self.sees = slots, scripts, {}
        self.now, self.looks, self.begun = 100.0, [], {}

    def pool(self):
        def workers():
            details = {"versions": versions()}
            every = [(node, n) for node, count in self.slots.items() for n in range(count)]
            return {f"{node}.{n}": {**details, "node": node, "host": f"host-{node}"} for node, n in every}

        actor = SimpleNamespace(live_workers=SimpleNamespace(remote=workers))
        watch = SimpleNamespace(check=lambda: None, check_head=lambda: None, ended=False)
        return SimpleNamespace(ray=self, address="here:1", watch=watch, actor=lambda: actor)

    def task(self, function, node):
        def look(folder, sees):
            self.looks.append(node)
            return self.sees.get(node, (f"host-{node}", _machines.pixel_versions(), []))

        def run(work, arguments, folder):
            [index] = arguments
            tries = self.begun.setdefault(index, [])
            tries.append(Stream(self, node, self.scripts[index][len(tries)]))
            return tries[-1]

        return SimpleNamespace(remote={_machines.look: look, _machines.run: run}[function])

    def get(self, value, timeout):
        if isinstance(value, Exception):
            raise value
        return value

    def wait(self, references, num_returns, timeout):
        if not (ready := self._ready(references)):
            self.now += timeout
            ready = self._ready(references)
        return ready[:num_returns], None

    def _ready(self, references):
        return [each for each in references if not isinstance(each, Stream) or each.ready()]

    def cancel(self, stream, force):
        stream.cancelled = True

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def start(monkeypatch):
    def start(slots, scripts, progress=None, sees=()):
        ray = Ray(slots, scripts)
        monkeypatch.setattr(packing, "time", SimpleNamespace(monotonic=lambda: ray.now, sleep=ray.sleep))
        monkeypatch.setattr(packing._Mapping, "_remote", lambda self, function, node, **_: ray.task(function, node))
        machines = RayMachines(ray.pool())
        arguments = [(index,) for index in range(len(scripts))]
        results = machines.map(len, len(scripts), arguments.__getitem__, {path: str(path) for path in sees}, progress)
        return ray, machines, results

    return start


def done(seconds, value, count=0):
    """Return the script of a try that sends a heartbeat every 50 s and ends after `seconds`."""
    return [*((second, (0, ())) for second in range(50, seconds, 50)), (seconds, (count, (value,)))]


def test_results_are_in_order(start):
    ray, machines, results = start({"a": 1, "b": 2}, [[done(3 - index % 2, index)] for index in range(7)])
    assert list(results) == list(range(7)) and machines.lost == 0
    assert {index: len(tries) for index, tries in ray.begun.items()} == dict.fromkeys(range(7), 1)


def test_frozen_first_try_is_duplicated(start):
    """Before the first shard ends, its duration is unknown and a fixed time limit applies."""
    ray, machines, results = start({"a": 1, "b": 1}, [[FROZEN, done(5, "second")]])
    assert list(results) == ["second"] and machines.lost == 0
    first, second = ray.begun[0]
    assert packing.LATE_AT_FIRST < second.begun - first.begun < packing.LATE_AT_FIRST + 2
    assert second.node != first.node and first.cancelled


def test_try_is_not_duplicated_without_free_slot(start):
    ray, _, results = start({"a": 1}, [[done(500, "at last"), done(1, "too many")]])
    assert list(results) == ["at last"] and len(ray.begun[0]) == 1


def test_try_within_time_limit_is_not_duplicated(start):
    ray, _, results = start({"a": 1, "b": 1}, [[done(200, 0)], [done(700, 1), done(1, "too many")]])
    assert list(results) == [0, 1] and len(ray.begun[1]) == 1


def test_late_try_is_duplicated_once(start):
    late = [FROZEN, done(100, "second"), done(0, "too many")]
    ray, _, results = start({"a": 2, "b": 2}, [[done(1, 0)], late, [done(2, 2)]])
    assert list(results) == [0, "second", 2]
    first, second = ray.begun[1]
    assert 0 < second.begun - first.begun - packing.LATE * 2 < 2


@pytest.mark.parametrize("duplicates", [[(1, RayError("killed"))], FROZEN])
def test_frozen_try_with_lost_duplicates_raises(start, duplicates):
    """The work ends in an error even if the duplicates freeze too."""
    ray, machines, results = start({"a": 1, "b": 1}, [[FROZEN, *[duplicates] * 9]])
    with pytest.raises(
        ValueError,
        match=r"^shard 0 of 1 was lost 4 times .*, last on host-[ab] \((killed|without a sign).*: look there",
    ):
        list(results)
    assert machines.lost == packing.TRIES and ray.now < 100 + packing.TRIES * packing.FROZEN


def test_frozen_try_is_repeated_without_free_slot(start):
    ray, machines, results = start({"a": 1}, [[FROZEN, done(5, "second")]])
    assert list(results) == ["second"] and machines.lost == 1
    first, second = ray.begun[0]
    assert packing.FROZEN < second.begun - first.begun < packing.FROZEN + 5 and first.cancelled


def test_lost_try_is_not_repeated_while_duplicate_runs(start):
    """The duplicate continues."""
    scripts = [[(70, RayError("lost"))], done(40, "other"), done(0, "too many")]
    ray, machines, results = start({"a": 2, "b": 2}, [scripts])
    assert list(results) == ["other"]
    assert len(ray.begun[0]) == 2 and machines.lost == 1


def test_progress_counts_repeated_work_once(start):
    told = []
    first = [(1, (5, ())), (2, (4, ())), (3, RayError("lost"))]
    second = [(1, (3, ())), (2, (8, ())), (4, (1, ("value",)))]
    _, machines, results = start({"a": 1}, [[first, second]], told.append)
    assert list(results) == ["value"] and machines.lost == 1
    assert told == [5, 4, 2, 1]


def test_shard_lost_every_time_raises(start):
    _, machines, results = start({"a": 1, "b": 1}, [[done(1, 0)], [[(1, RayError("killed"))]] * packing.TRIES])
    with pytest.raises(
        ValueError, match=r"^shard 1 of 2 was lost 4 times .*, last on host-[ab] \(killed\): look there"
    ):
        list(results)
    assert machines.lost == packing.TRIES


@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        (FileNotFoundError("no image"), FileNotFoundError, "^no image$"),
        (KeyError("bug"), RuntimeError, r"^a worker of here:1 failed: KeyError\('bug'\)$"),
    ],
)
def test_work_error_is_not_retried(start, cause, kind, said):
    ray, machines, results = start({"a": 1}, [[[(1, RayTaskError(cause))]]])
    with pytest.raises(kind, match=said):
        list(results)
    assert len(ray.begun[0]) == 1 and machines.lost == 0


DENIED = PermissionError(13, "Permission denied", "/shared/set.json")
REFUSED = [
    (
        RayTaskError(DENIED),
        "host-b, of the pool at here:1, cannot access the files: /shared/set.json: Permission denied",
    ),
    (RayTaskError(KeyError("bug")), r"host-b, of the pool at here:1, cannot access the files: KeyError\('bug'\)$"),
    (("host-b", _machines.pixel_versions(), ["/shared"]), "/shared: not found on host-b, of the pool at here:1"),
    (("host-b", {"opencv": "0.1"}, []), "here:1: the pool has different versions: .*opencv"),
]


@pytest.mark.parametrize(("seen", "said"), REFUSED)
def test_unsuitable_machine_is_refused(start, seen, said):
    ray, _, results = start({"a": 1, "b": 1}, [[done(1, 0)]], sees=[Path("/shared")])
    ray.sees["b"] = seen
    with pytest.raises(ValueError, match=f"^{said}"):
        list(results)
    assert ray.now < 110 and not ray.begun


@pytest.mark.parametrize(("seen", "said"), REFUSED)
def test_unsuitable_machine_that_joins_is_not_used(start, caplog, seen, said):
    """The machine is checked once, and one message reports it."""
    ray, _, results = start({"a": 1}, [[done(10, index)] for index in range(5)], sees=[Path("/shared")])
    ray.sees["b"] = seen
    with caplog.at_level(logging.WARNING):
        assert next(results) == 0
        ray.slots = {"a": 1, "b": 3}
        assert list(results) == [1, 2, 3, 4]
    assert ray.looks == ["a", "b"]
    [message] = [record.getMessage() for record in caplog.records]
    assert pytest.approx(ray.now, abs=5) == 150
    assert message.startswith("a machine that joined is not used: ")
    assert {stream.node for tries in ray.begun.values() for stream in tries} == {"a"}


def test_machine_that_joins_is_used(start):
    ray, _, results = start({"a": 1}, [[done(10, index)] for index in range(5)])
    assert next(results) == 0
    ray.slots = {"a": 1, "b": 1}
    assert list(results) == [1, 2, 3, 4]
    assert {stream.node for tries in ray.begun.values() for stream in tries} == {"a", "b"}


@pytest.mark.parametrize("lost", [RayError("gone"), RayTaskError(MemoryError("full"))])
def test_lost_machine_check_is_repeated(start, lost):
    ray, _, results = start({"a": 1}, [[done(1, 0)]])
    ray.sees["a"] = lost
    answers = itertools.chain([lost], itertools.repeat(("host-a", _machines.pixel_versions(), [])))
    ray.sees = SimpleNamespace(get=lambda *_: next(answers))
    assert list(results) == [0] and ray.looks == ["a", "a"]


def test_ray_is_not_called_while_head_is_lost(start, monkeypatch):
    """A call to a lost head would wait and then end the process. A head that comes back is called again."""
    ray, machines, results = start({"a": 1}, [[[(1, RayError("socket closed"))], done(1, 0)]])
    watch, checks = machines.pool.watch, itertools.count()

    def lost():
        watch.ended = machines.lost > 0 and next(checks) < 18

    def gated(call):
        def asked(*arguments):
            assert not watch.ended
            return call(*arguments)

        return asked

    watch.check = lost
    live_workers = machines.pool.actor().live_workers
    live_workers.remote = gated(live_workers.remote)
    monkeypatch.setattr(ray, "task", gated(ray.task))
    assert list(results) == [0] and machines.lost == 1
    assert ray.begun[0][1].begun - ray.begun[0][0].begun > 3


def test_task_is_created_once_per_function():
    """Ray sends every new remote function to the head. If the head has ended, Ray waits, then ends this process."""

    class Remote:
        remote = staticmethod(lambda function: object())

    assert packing._task(Remote, len) is packing._task(Remote, len) is not packing._task(Remote, max)


def test_socket_error_raises_pool_gone(start, monkeypatch):
    ray, _, results = start({"a": 1}, [[done(1, 0)], [done(50, 1)]])
    assert next(results) == 0

    def wait(*_, **__):
        raise OSError("Failed to read data from the socket: End of file")

    monkeypatch.setattr(ray, "wait", wait)
    with pytest.raises(cluster.PoolGone, match=r"^the pool at here:1 is gone: start it again"):
        next(results)


def test_pool_bug_is_raised_at_once(start):
    ray, machines, results = start({"a": 1}, [[done(1, 0)]])
    failed = RayTaskError(KeyError("bug"))
    machines.pool.actor = lambda: SimpleNamespace(live_workers=SimpleNamespace(remote=lambda: failed))
    with pytest.raises(RayTaskError, match="bug"):
        list(results)
    assert ray.now == 100
