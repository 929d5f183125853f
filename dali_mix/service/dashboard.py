"""A pool's status page and Prometheus metrics, served by `dali-mix serve --dashboard`."""

from __future__ import annotations

import errno
import html
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .8rem; margin: 0; }
dt { color: #666; font-size: .85rem; } dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
div { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
.bad { color: #b30; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } th, td { border-color: #444; } }
"""


def page(status: Mapping[str, Any], address: str) -> str:
    """Return the HTML status page, which reloads every two seconds; `status`: see `pool.Pool.status`."""
    figures = {
        "images/s": f"{status['images_per_second']:,.0f}",
        "chunks asked for": f"{status['asked']:,}",
        "chunks decoded": f"{status['decoded']:,}",
        "answered from memory": f"{status['shared']:,}",
        "second asks": f"{status['second_asks']:,}",
        "lost": f"{status['lost']:,}",
        "MB kept": f"{status['bytes'] / 1e6:,.0f} of {status['capacity'] / 1e6:,.0f}",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    workers = _table(
        ("worker", "decodes on", "under way", "images", "images/s when busy", ""),
        [
            (
                own["name"],
                own["decode"],
                own["under_way"],
                f"{own['images']:,}",
                f"{own['images_per_busy_second']:,.0f}",
                "late or lost" if own["suspected"] else "",
            )
            for own in status["workers"]
        ],
    )
    trainers = _table(
        ("trainer", "chunks asked for", "second asks", "last asked", "waits for"),
        [
            (own["name"], f"{own['asked']:,}", own["second_asks"], f"{own['idle']:.0f} s ago", waits_for(own))
            for own in status["trainers"]
        ],
    )
    sets = _table(
        ("set", "pipeline", "for"),
        [(own["set"], own["pipeline"], "training" if own["train"] else "evaluation") for own in status["sets"]],
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<meta http-equiv=refresh content=2><link rel=icon href='data:,'>"
        f"<title>dali_mix {html.escape(address)}</title><style>{STYLE}</style>"
        f"<h1>Pool at {html.escape(address)}</h1><dl>{items}</dl>"
        f"<h2>Workers</h2>{workers}<h2>Trainers</h2>{trainers}<h2>Sets</h2>{sets}</html>"
    )


def waits_for(trainer: Mapping[str, Any]) -> str:
    """Return "2 from WORKER, 1 from WORKER, …", the chunks that a trainer waits for, or "nothing".

    `trainer` is one of "trainers" in the result of `pool.Pool.status`.
    """
    return ", ".join(f"{count} from {name}" for name, count in trainer["waits_for"].items()) or "nothing"


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<div><table><tr>{head}</tr>{body}</table></div>"


def metrics(status: Mapping[str, Any]) -> str:
    """Return counts and rates of `status`, the result of `pool.Pool.status`, in Prometheus's text format.

    The gauge `dali_mix_trainers` counts only trainers that asked during the last 60 seconds.
    """
    counters = ("asked", "decoded", "shared", "second_asks", "lost")
    lines = []
    for name in counters:
        lines += [f"# TYPE dali_mix_chunks_{name}_total counter", f"dali_mix_chunks_{name}_total {status[name]}"]
    gauges = {
        "images_per_second": status["images_per_second"],
        "kept_bytes": status["bytes"],
        "capacity_bytes": status["capacity"],
        "workers": len(status["workers"]),
        "trainers": sum(own["idle"] < 60 for own in status["trainers"]),
    }
    for name, value in gauges.items():
        lines += [f"# TYPE dali_mix_{name} gauge", f"dali_mix_{name} {value}"]
    lines.append("# TYPE dali_mix_worker_images_total counter")
    lines += [f'dali_mix_worker_images_total{{worker="{own["name"]}"}} {own["images"]}' for own in status["workers"]]
    return "\n".join(lines) + "\n"


class Dashboard:
    """An HTTP server for a pool's status.

    It serves `/`, `/metrics` and `/status.json` on its own thread, until `close`.

    Args:
        host, port: address to listen on. Port 0 selects a free port; see the attribute `port`.
        address: address of the pool.
        status: called for each request; returns the result of `pool.Pool.status`. If it raises, for example because the
            pool does not answer, the request gets HTTP status 503.

    Raises:
        ValueError: the address cannot be used.
    """

    def __init__(self, host: str, port: int, address: str, status: Callable[[], Mapping[str, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kinds = {
                    "/": ("text/html; charset=utf-8", lambda now: page(now, address)),
                    "/metrics": ("text/plain; version=0.0.4", metrics),
                    "/status.json": ("application/json", json.dumps),
                }
                path = self.path.partition("?")[0]
                if path not in kinds:
                    self.send_error(404)
                    return
                kind, make = kinds[path]
                try:
                    body = make(status()).encode(errors="backslashreplace")  # the path of a set may not be valid UTF-8
                except Exception as error:  # the pool is restarting
                    self.send_error(503, explain=str(error).partition("\n")[0])  # the status line is latin-1 only
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = f"port {port} is in use: choose another" if in_use else f"cannot listen on {host}:{port}"
            raise ValueError(f"--dashboard: {reason} ({error.strerror})") from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
