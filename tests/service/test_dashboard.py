"""Status page and metrics of a pool, and `dali-mix serve --status`."""

import errno
import json
import os
import re
import urllib.error
import urllib.request

import pytest

from dali_mix.cli.main import main
from dali_mix.service.dashboard import Dashboard, metrics, page
from tests.service.serving import client, wait_until_idle

STATUS = {
    "seconds": 3725.0,
    "images_per_second": 1234.5,
    "bytes": 96_000_000,
    "capacity": 4_000_000_000,
    "chunks": 10,
    "asked": 4000,
    "decoded": 1000,
    "shared": 3000,
    "second_asks": 3,
    "lost": 1,
    "workers": [
        {"name": f"host-1a2b3c.{n}", "decode": "cpu", "under_way": n, "suspected": n == 1, "images": 64_000 * n,
         "images_per_busy_second": 450.0}
        for n in range(2)
    ],
    "trainers": [
        {"name": "<script>alert(1)</script>", "idle": 1.2, "asked": 4000, "second_asks": 3, "waits_for": {"b": 2}},
        {"name": "gone", "idle": 100.0, "asked": 7, "second_asks": 0, "waits_for": {}},
    ],
    "sets": [{"key": "0123", "set": "/data/<b>&train", "pipeline": "imagenet", "train": True}],
}  # fmt: skip


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_page_shows_escaped_status():
    text = page(STATUS, "10.0.0.1:6379")
    assert "<script>" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "/data/&lt;b&gt;&amp;train" in text
    for shown in ("Pool at 10.0.0.1:6379", "1,234", "4,000", "96 of 4,000", "host-1a2b3c.1", "late or lost", "64,000"):
        assert shown in text
    assert "<td>2 from b</td>" in text and "<td>nothing</td>" in text
    tags = re.findall(r"<(/?)(h1|h2|dl|dt|dd|div|table|tr|th|td|style|title|html)\b", text)
    assert all(tags.count(("", name)) == tags.count(("/", name)) for _, name in tags)
    empty = page(STATUS | {"workers": [], "trainers": [], "sets": []}, "a")
    assert empty.count("<p>none</p>") == 3


def test_metrics_have_prometheus_format():
    text = metrics(STATUS)
    for line in text.splitlines():
        assert re.fullmatch(r'# TYPE \w+ (counter|gauge)|\w+(\{worker="[^"]*"\})? \d+(\.\d+)?', line), line
    for line in ("dali_mix_chunks_asked_total 4000", "dali_mix_workers 2", "dali_mix_trainers 1"):
        assert f"{line}\n" in text
    assert 'dali_mix_worker_images_total{worker="host-1a2b3c.1"} 64000\n' in text


def test_dashboard_serves_page_metrics_and_json():
    broken = []

    def status():
        if broken:
            raise RuntimeError("the pool\nis starting")
        return STATUS

    shown = Dashboard("127.0.0.1", 0, "a:1", status)
    url = f"http://127.0.0.1:{shown.port}"
    try:
        assert get(f"{url}/") == ("text/html; charset=utf-8", page(STATUS, "a:1"))
        assert get(f"{url}/metrics") == ("text/plain; version=0.0.4", metrics(STATUS))
        assert json.loads(get(f"{url}/status.json")[1]) == STATUS
        for path, code in (("/../etc/passwd", 404), ("/x", 404)):
            with pytest.raises(urllib.error.HTTPError, match=str(code)):
                get(url + path)
        broken.append(True)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{url}/")
        with pytest.raises(ValueError, match=rf"^--dashboard: port {shown.port} is in use"):
            Dashboard("127.0.0.1", shown.port, "a:1", status)
    finally:
        shown.close()
    with pytest.raises(OSError):
        get(url)


def test_query_strings_and_undecodable_paths_are_served():
    status = STATUS | {"sets": [{**STATUS["sets"][0], "set": "/data/\udcff"}]}
    shown = Dashboard("127.0.0.1", 0, "a:1", lambda: status)
    url = f"http://127.0.0.1:{shown.port}"
    try:
        assert r"/data/\udcff" in get(f"{url}/?x")[1]
        assert get(f"{url}/metrics?x=1&y")[1] == metrics(STATUS)
    finally:
        shown.close()


def test_error_page_shows_escaped_first_line():
    def status():
        raise RuntimeError("<кластер>\nis starting")

    shown = Dashboard("127.0.0.1", 0, "a:1", status)
    try:
        with pytest.raises(urllib.error.HTTPError, match="503: Service Unavailable") as error:
            get(f"http://127.0.0.1:{shown.port}/")
        text = error.value.read().decode()
        assert "&lt;кластер&gt;" in text and "is starting" not in text
    finally:
        shown.close()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "--dashboard: port 80 is in use: choose another (Address already in use)"),
        (errno.EACCES, "--dashboard: cannot listen on 10.0.0.1:80 (Permission denied)"),
        (errno.EADDRNOTAVAIL, "--dashboard: cannot listen on 10.0.0.1:80 (Cannot assign requested address)"),
    ],
)
def test_listen_error_is_reported(monkeypatch, number, said):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("dali_mix.service.dashboard.ThreadingHTTPServer", refused)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Dashboard("10.0.0.1", 80, "a:1", dict)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dashboard", "70000"), "--dashboard=70000: must be an integer from 0 to 65535"),
        (("--dashboard", "-1"), "--dashboard=-1: must be an integer from 0 to 65535"),
        (("--memory", "inf"), "--memory=inf: must be a finite number of at least 0.17"),
        (("--port", "0"), "--port=0: must be an integer from 1 to 65535"),
    ],
)
def test_out_of_range_option_is_refused_before_start(capsys, monkeypatch, options, said):
    monkeypatch.setattr("dali_mix.service.node.Node", lambda *_, **__: pytest.fail("started"))
    assert main(["serve", *options]) == 1
    assert capsys.readouterr().err == f"dali-mix serve: error: {said}\n"


def test_dashboard_of_running_pool(head, pool):
    wait_until_idle(pool)
    assert "Pool at" in get(f"{head.page}/")[1]
    assert "dali_mix_workers 2\n" in get(f"{head.page}/metrics")[1]
    assert len(json.loads(get(f"{head.page}/status.json")[1])["workers"]) == 2


def test_serve_status_prints_summary(head, pool):
    wait_until_idle(pool)
    text, _ = client(
        "import sys; from dali_mix.cli.main import main; sys.exit(main())", "serve", "--status", head.address
    )
    lines = text.splitlines()
    assert re.fullmatch(r"up 0 h \d+ min; [\d,]+ images/s over the last 10 s", lines[0]), text
    assert re.fullmatch(
        r"chunks: [\d,]+ asked for, [\d,]+ decoded, [\d,]+ answered from memory, [\d,]+ second asks, \d+ lost", lines[1]
    )
    assert re.fullmatch(r"kept: [\d,]+ chunks, [\d,]+ of 100 MB", lines[2])
    assert len([line for line in lines if re.match(r"worker \S+: [\d,]+ images, ", line)]) == 2
