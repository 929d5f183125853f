"""What the launcher makes of how its ranks ended."""

import signal

import pytest

from dali_mix.cli.launch import outcome
from dali_mix.cli.rank import Ended


@pytest.mark.parametrize(
    ("reports", "ended", "asked", "status", "message"),
    [
        ({0: (1, "error of 0"), 1: (1, "error of 1")}, {1: 1}, None, 1, "error of 0"),
        ({1: (1, "error of 1")}, {0: -signal.SIGTERM, 1: 1}, None, 1, "error of 1"),
        ({0: (75, ""), 1: (1, "error of 1")}, {1: 1}, None, 1, "error of 1"),
        ({0: (75, ""), 1: (75, "")}, {0: 75, 1: 75}, None, 75, ""),
        ({0: (75, "")}, {0: 75}, None, 75, ""),
        ({0: (75, ""), 1: (75, "")}, {}, signal.SIGTERM, 75, ""),
        ({}, {0: -signal.SIGTERM}, signal.SIGTERM, 143, "before it could save"),
        ({0: (1, "connection lost")}, {1: -signal.SIGKILL}, None, 1, "rank 1 was ended by SIGKILL; out of memory"),
        ({0: (130, "interrupted")}, {}, signal.SIGINT, 130, "interrupted"),
        ({}, {2: 3}, None, 1, "rank 2 with status 3"),
        ({0: (0, ""), 1: (0, "")}, {}, None, 0, ""),
        ({0: (0, ""), 1: (0, "")}, {}, signal.SIGTERM, 0, ""),
        ({0: (1, "ended: rank 1 failed", True), 1: (1, "error of 1")}, {0: 1, 1: 1}, None, 1, "error of 1"),
        ({0: (1, "ended: rank 3 failed", True), 1: (1, "ended", True)}, {0: 1}, None, 1, "ended: rank 3 failed"),
        ({0: (1, "lost", True)}, {1: -signal.SIGSEGV}, None, 1, "rank 1 was ended by SIGSEGV"),
    ],
)
def test_outcome(reports, ended, asked, status, message):
    found = outcome({number: Ended(*report) for number, report in reports.items()}, ended, asked)
    assert found[0] == status
    assert message in found[1]
    assert bool(message) == bool(found[1])
    assert "\n" not in found[1]
