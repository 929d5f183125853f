"""A trainer's client of a pool in isolation: Ray, the pool and the workers are stand-ins."""

import os
import pickle
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dali_mix.loading.chunks import Question
from dali_mix.loading.workers import NoWorkers, Spec, WorkerDied, WorkerLost
from dali_mix.service import client, cluster
from dali_mix.service.client import RayPool, RayWorkers
from tests.service.stand_ins import ActorUnavailableError, RayError, RayTaskError, errors

SPEC = Spec(Path("set"), "imagenet", {}, train=True, seed=0, decode="auto", verify_crc=False)


class Ray:
    """Stand-in for Ray and the pool's actor. The function `asks` returns the pool's answers. `get` raises errors."""

    exceptions = errors

    def __init__(self):
        self.asked, self.directly, self.waited, self.answers = [], [], [], {}
        self.asks = lambda number: ([f"chunk {number}"], "a")
        self.ask = self._method(self._ask)
        self.workers = self._method(lambda: {"a": {}, "b": {}})

    @staticmethod
    def _method(function):
        def call(*arguments):
            try:
                return function(*arguments)
            except Exception as error:
                return error

        return SimpleNamespace(remote=call)

    def _ask(self, key, spec, fingerprint, question, avoid, trainer):
        assert (key, spec, fingerprint) == ("key", SPEC, "fingerprint")
        self.asked.append((int(question.rows[0]), avoid, trainer))
        return self.asks(int(question.rows[0]))

    def get_actor(self, name, namespace):
        def answer(key, spec, fingerprint, question):
            self.directly.append((name, int(question.rows[0])))
            return f"chunk {question.rows[0]}", "details"

        return SimpleNamespace(answer=SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=answer)))

    def get(self, value, timeout):
        value = self.answers.get(value, value) if isinstance(value, str) else value
        if isinstance(value, Exception):
            raise value
        return value

    def wait(self, references, num_returns, timeout, fetch_local):
        self.waited.append(list(references))
        ready = [reference for reference in references if reference in self.answers][:num_returns]
        return ready, [reference for reference in references if reference not in ready]


@pytest.fixture
def ray():
    return Ray()


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    return now


@pytest.fixture
def workers(ray):
    watch = SimpleNamespace(check=lambda: None, check_head=lambda: None)
    return RayWorkers(ray, "here:1", ray, watch, SPEC, "key", "fingerprint")


def question(number):
    return Question(0, np.array([number]))


def test_shared_answer_resolves_both_tickets(ray, workers):
    ray.asks = lambda number: (["shared"], "a")
    first, second = (workers.ask(question(number), ()) for number in range(2))
    ray.answers["shared"] = "the chunk"
    assert workers.wait(1) == [(first, "the chunk"), (second, "the chunk")]
    assert workers.wait(1) == [] and ray.waited == [["shared"]]


def test_dropped_tickets_are_not_waited_for(ray, workers):
    """Otherwise tickets accumulate, and with them the chunks that they hold in memory."""
    ray.asks = lambda number: ([f"chunk {number // 2}"], "a")
    tickets = [workers.ask(question(number), ()) for number in range(4)]
    workers.drop(tickets[0])
    workers.drop(tickets[2])
    workers.drop(tickets[3])
    workers.drop(tickets[3])
    ray.answers |= {"chunk 0": "0", "chunk 1": "1"}
    assert workers.wait(1) == [(tickets[1], "0")]
    assert ray.waited == [["chunk 0"]]
    workers.drop(tickets[1])  # already answered
    workers.ask(question(4), ())
    workers.close()
    assert workers.wait(1) == [] and len(ray.waited) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (RayError("its machine is gone"), WorkerLost, "its machine is gone"),
        (ActorUnavailableError("Socket closed"), WorkerDied, "Socket closed"),
        (ActorUnavailableError("The actor is restarting."), WorkerLost, "The actor is restarting."),
        (RayTaskError(RayError("an answer was lost")), WorkerLost, "an answer was lost"),
        (RayTaskError(MemoryError("full")), WorkerLost, "full"),
        (RayTaskError(FileNotFoundError("no set")), FileNotFoundError, "no set"),
        (RayTaskError(KeyError("bug")), RuntimeError, "a worker of here:1 failed: KeyError('bug')"),
    ],
)
def test_answer_errors_become_worker_exceptions(ray, workers, answer, kind, said):
    ticket = workers.ask(question(0), ())
    ray.answers["chunk 0"] = answer
    [(found, error)] = workers.wait(1)
    assert found is ticket and type(error) is kind and str(error) == said


def test_socket_error_raises_pool_gone(ray, workers, monkeypatch):
    workers.ask(question(0), ())
    monkeypatch.setattr(ray, "wait", raising(OSError("Failed to read data from the socket: End of file")))
    with pytest.raises(cluster.PoolGone, match=r"^the pool at here:1 is gone: start it again"):
        workers.wait(1)


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_ask_raises_no_workers_if_pool_has_none_to_offer(ray, workers):
    ray.asks = lambda number: None
    with pytest.raises(NoWorkers):
        workers.ask(question(0), {"b", "a"})
    assert ray.asked == [(0, ["a", "b"], f"{socket.gethostname()}:{os.getpid()}")]


def test_workers_are_asked_directly_while_pool_is_silent(ray, workers, clock):
    """The pool is not asked again for every chunk, which would take `ANSWER` seconds each time."""
    workers.ask(question(0), ())
    whole, ray.asks = ray.asks, lambda number: RayError("frozen")
    assert [workers.ask(question(number), ()).worker for number in range(1, 5)] == ["b", "a", "b", "a"]
    assert workers.ask(question(5), {"b"}).worker == "a"
    with pytest.raises(NoWorkers):
        workers.ask(question(6), {"a", "b"})
    assert [number for number, *_ in ray.asked] == [0, 1]
    assert [number for _, number in ray.directly] == [1, 2, 3, 4, 5]
    clock[0] += client.DIRECTLY + 0.1
    workers.ask(question(7), ())
    assert [number for number, *_ in ray.asked] == [0, 1, 7] and len(ray.directly) == 6
    clock[0] += client.DIRECTLY + 0.1
    ray.asks = whole
    workers.ask(question(8), ())
    workers.ask(question(9), ())
    assert [number for number, *_ in ray.asked] == [0, 1, 7, 8, 9] and len(ray.directly) == 6


def test_pool_bug_is_raised_without_asking_workers(ray, workers):
    workers.ask(question(0), ())
    ray.asks = lambda number: RayTaskError(KeyError("bug"))
    with pytest.raises(RuntimeError, match=r"^the pool at here:1 failed: KeyError\('bug'\)$"):
        workers.ask(question(1), ())
    assert ray.directly == []


def test_unpickled_workers_reconnect(ray, workers, monkeypatch):
    """The copy may be in another process. The tickets stay with the original."""
    workers.ask(question(0), ())
    sent = pickle.dumps(workers)
    connected = []

    def connect(address):
        connected.append(address)
        watch = SimpleNamespace(check=lambda: None, check_head=lambda: None)
        return SimpleNamespace(ray=ray, actor=lambda: ray, watch=watch)

    monkeypatch.setattr(client, "connect", connect)
    other = pickle.loads(sent)  # noqa: TID251
    assert type(other) is RayWorkers and connected == ["here:1"]
    ticket = other.ask(question(1), ())
    ray.answers |= {"chunk 0": "0", "chunk 1": "1"}
    assert other.wait(1) == [(ticket, "1")]


def test_calls_in_forked_process_raise(tmp_path, ray, monkeypatch):
    """Ray's threads do not exist after a fork, so every call would hang."""
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind("raylet")
        raylet.listen()
        global_node = SimpleNamespace(plasma_store_socket_name="raylet")
        ray._private = SimpleNamespace(worker=SimpleNamespace(_global_node=global_node))
        pool = RayPool(ray, "127.0.0.1:1")
        monkeypatch.setattr(cluster, "pool_actor", lambda *_: ray)
        monkeypatch.setattr(cluster, "reachable", lambda *_: True)
        workers = RayWorkers(ray, pool.address, pool.actor(), pool.watch, SPEC, "key", "fingerprint")
        workers.ask(question(0), ())
        monkeypatch.setattr(os, "getpid", lambda: 1)
        for call in (lambda: workers.ask(question(1), ()), lambda: workers.wait(1), pool.actor, pool.status):
            with pytest.raises(RuntimeError, match=f"^{cluster.FORKED}$"):
                call()
        assert len(ray.asked) == 1 and ray.waited == []
        pool.watch.close()
