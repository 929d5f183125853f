"""The rendezvous of ranks: one message names differing values, and missing, duplicate or failed ranks."""

import os
import signal
import socket
import threading

import pytest

from dali_mix._signals import handled
from dali_mix.engine.distributed.rendezvous import RankLost, Rendezvous, differences, spans
from tests.engine.processes import free_port


def meet(*bodies, world_size=None, ranks=None, seconds=20.0):
    """Run `body(rendezvous)` of each rank in a thread; return the results or exceptions."""
    found, place, kept = [None] * len(bodies), ("127.0.0.1", free_port()), []

    def run(index, body):
        try:
            rendezvous = Rendezvous((ranks or range(9))[index], world_size or len(bodies), *place, seconds=seconds)
            kept.append(rendezvous)  # rank 0's store serves only while it is alive
            with rendezvous.reporting():
                found[index] = body(rendezvous)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_exchange_returns_values_in_rank_order():
    found = meet(*(lambda r: (r.exchange("a", f"{r.rank}!"), r.exchange("b", "")) for _ in range(3)))
    assert found == [(["0!", "1!", "2!"], [""] * 3)] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"seed": "0"}, {"seed": "1"}], "seed: 0 on rank 0 (a), 1 on rank 1 (b)"),
        ([{"seed": "0"}] * 3 + [{"seed": "1"}] * 2, "seed: 0 on ranks 0-2 (a), 1 on ranks 3-4 (d)"),
        (
            [{"epochs": "1", "mixer": "None"}, {"epochs": "1", "mixer.type": "cutmix"}],
            "mixer: None on rank 0 (a), not set",
        ),
        ([dict.fromkeys("pqrst", "0"), dict.fromkeys("pqrst", "1")], "r: 0 on rank 0 (a), 1 on rank 1 (b); and 2 more"),
        ([{"x": "1" * 99}, {"x": ""}], f"x: {'1' * 47}… on rank 0"),
    ],
)
def test_differences_name_ranks_and_values(values, message):
    found = differences(values, list("abcde")[: len(values)])
    assert message in found
    assert "\n" not in found
    assert differences(values[:1] * 3, list("abc")) == ""


def test_differing_ranks_all_end_and_one_names_difference():
    found = meet(*(lambda r, seed=seed: r.compare({"seed": seed}) for seed in "001"))
    assert sorted(type(error).__name__ for error in found) == ["RankLost", "RankLost", "ValueError"]
    assert any("seed: 0 on ranks 0-1" in str(error) for error in found)
    assert meet(*(lambda r: r.compare({"seed": "0"}) for _ in range(2))) == [None, None]


def test_missing_ranks_are_named():
    found = meet(lambda r: r.compare({}), lambda r: r.compare({}), world_size=4, ranks=(0, 2), seconds=1.5)
    named = [error for error in found if "ranks 1, 3 of 4 did not connect in 2 s; ranks 0, 2 did" in str(error)]
    assert named
    assert all(isinstance(error, ConnectionError) for error in found)
    assert found[0] in named or isinstance(found[0], RankLost)


def test_duplicate_rank_is_named():
    found = meet(*(lambda r: r.compare({}) for _ in range(3)), ranks=(0, 1, 1), seconds=20.0)
    assert all(isinstance(error, ConnectionError) for error in found)
    assert sum("two processes are rank 1" in str(error) for error in found[1:]) >= 1


def test_missing_rank_0_used_port_or_unknown_host_is_named():
    with pytest.raises(ConnectionError, match=r"rank 1 on .* waited 1 s for rank 0 at 127.0.0.1:\d+"):
        Rendezvous(1, 2, "127.0.0.1", free_port(), seconds=1.0)
    with socket.socket() as used:
        used.bind(("0.0.0.0", 0))
        used.listen()
        with pytest.raises(OSError, match=r"MASTER_PORT \d+ is in use"):
            Rendezvous(0, 2, "127.0.0.1", used.getsockname()[1])
    for rank in (0, 1):
        with pytest.raises(ValueError, match=r"MASTER_ADDR=no-such-host\.invalid does not resolve"):
            Rendezvous(rank, 2, "no-such-host.invalid", 29500)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_failed_rank_is_named_by_other_ranks(failing):
    def body(rendezvous):
        if rendezvous.rank == failing:
            raise ValueError("no such set")
        return rendezvous.exchange("values", "")

    found = meet(body, body, body)
    assert str(found[failing]) == "no such set"
    for error in found[:failing] + found[failing + 1 :]:
        assert isinstance(error, RankLost)
        assert f"rank {failing} on {socket.gethostname()} failed; its output has the error" == str(error)


def test_sigterm_does_not_hide_reported_error(monkeypatch):
    """A rank handles the signal only after it has waited for the others to read its error."""
    monkeypatch.setattr("dali_mix.engine.distributed.rendezvous._LINGER_SECONDS", 0.6)
    received = []
    with handled(lambda number, frame: received.append(number), signal.SIGTERM):
        first = Rendezvous(0, 2, "127.0.0.1", free_port())
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(ValueError, match="no such set"), first.reporting():
            raise ValueError("no such set")
        timer.join()
        assert received == []
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]


def test_error_on_all_ranks_is_reported_by_one():
    def body(rendezvous):
        raise ValueError("no such set")

    found = meet(body, body, body)
    assert sorted(type(error).__name__ for error in found) == ["RankLost", "RankLost", "ValueError"]


def test_transport_error_is_reported_as_lost_rank():
    gloo = "[/x/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1"

    def lost(rendezvous):
        rendezvous.exchange("started", "")
        raise RuntimeError(gloo)

    def failed(rendezvous):
        rendezvous.exchange("started", "")
        raise ZeroDivisionError("a bug")

    found = meet(failed, lost)
    assert isinstance(found[0], ZeroDivisionError)
    assert isinstance(found[1], RankLost)
    assert "rank 0 on" in str(found[1])
    bug = meet(lambda r: r.compare({}), lambda r: [r.compare({}), {}["a"]])
    assert isinstance(bug[1], KeyError)


def test_spans():
    assert [spans(ranks) for ranks in ([3], [0, 1], [0, 1, 2, 5, 7, 8])] == ["rank 3", "ranks 0-1", "ranks 0-2, 5, 7-8"]
