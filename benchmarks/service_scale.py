"""Scalability of the pipeline service: 1 to 1,000 workers and 1 to 256 GPUs, simulated with measured costs.

usage: python benchmarks/service_scale.py [measure] [check] [sweep] [draw] [--images FOLDER] [--gpu-rate 3000]
         [--seed 0] [--costs docs/benchmarks/service_costs.json] [--out docs/benchmarks/service_scale.json]
         [--picture docs/benchmarks/service_scale.png]

measure  measure the costs of a question, a chunk and a step with the real code, and images/s of real pools of 1 to 4
         workers on this machine; writes --costs and needs Ray
check    compare the simulation with these pools
sweep    simulate larger clusters, print their limits, and draw the picture
draw     draw only the picture, from --out
The default is measure, check and sweep. Without Ray, measure is skipped and the others use the costs in the file.
_service_costs.py describes how costs are measured, _service_model.py what is simulated.

More than 300 lines: each step is kept together with its table and output.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _compare import environment, write_json
from _service_machines import Cluster, Costs, capacities
from _service_model import Simulation
from loader import HERE, add_images, originals, prepare

from dali_mix.loading.chunks import POSITIONS

DOCS = HERE.parent / "docs" / "benchmarks"
SETS = ("original", "shorter256")
LINKS = {"10 GbE": 1.25e9, "100 GbE": 12.5e9}
WORKERS = (1, 4, 16, 64, 250, 1000)
GPUS = (1, 8, 32, 64, 256)
WARM, SECONDS = 4.0, 6.0
TWO_NODES = "1, on another node"


# measure


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import _service_costs as real

    found: dict[str, Any] = {
        "environment": environment(["nvidia-dali-cuda120", "torch", "ray", "numba", "numpy"]),
        "sets": {},
        "pools": {},
    }
    with tempfile.TemporaryDirectory() as work:
        os.environ |= {"XDG_CONFIG_HOME": work, "DALI_MIX_SERVICE_TOKEN": f"{work}/token"}
        settings, jpegs = argparse.Namespace(size=224, batch_size=POSITIONS, threads=1), originals(args.images)
        prefixes = {name: prepare(name, jpegs, Path(work), settings).parent / "records" for name in SETS}
        for name, prefix in prefixes.items():
            found["sets"][name] = real.decoding(prefix)
            found["pools"][name] = {}
        with real.serving(("--workers", 0, "--port", args.port)) as (pool, nodes):
            found["pool"] = {str(count): real.pool_actor(pool, nodes, count) for count in (4, real.MANY)}
        for workers in range(1, 5):
            port = args.port + 10 * workers
            with real.serving(("--workers", workers, "--port", port)) as (pool, nodes):
                if workers == 1:
                    found["trainer"] = real.trainer_steps(pool, prefixes["original"])
                for name, prefix in prefixes.items():
                    found["pools"][name][str(workers)] = real.stretch(pool, nodes, prefix, args.batches, seed=5)
        head, join = args.port + 50, f"127.0.0.1:{args.port + 50}"
        with real.serving(("--workers", 0, "--port", head), ("--join", join, "--workers", 1)) as (pool, nodes):
            found["transfer"] = real.transfer(pool, nodes, prefixes["original"])
            for name, prefix in prefixes.items():
                found["pools"][name][TWO_NODES] = real.stretch(pool, nodes, prefix, args.batches, seed=6)
    return found


def costs_of(found: dict[str, Any], name: str) -> Costs:
    """Return the costs for set `name` from the measurements `found`.

    Of the real pools that `check` compares with the simulation, only the one with one worker contributes to the costs.
    """
    trainer, transfer, pools = found["trainer"], found["transfer"], found["pool"]
    one = found["pools"][name]["1"]["cpu"]
    few, many = (pools[count]["busiest"]["pool"] for count in ("4", "1000"))
    by_worker = max(0.0, (many - few) / 996)
    return Costs(
        decode=one["worker"],
        chunk_bytes=trainer["chunk_bytes"],
        record_bytes=found["sets"][name]["record_bytes"],
        ask=trainer["ask_cpu"],
        get=trainer["get_cpu"],
        cut=trainer["copy"],
        latency=max(1e-4, (trainer["ask"] - trainer["ask_cpu"] - few) / 2),
        pool=few - 4 * by_worker,
        pool_by_worker=by_worker,
        pool_else=pools["4"]["cpu"]["pool"] - few,
        listing=pools["1000"]["list"] / 1000,
        register=pools["4"]["register"],
        raylet=one["raylet"] + one["gcs"],
        send=transfer["cpu"]["raylet1"],
        receive=transfer["cpu"]["raylet"],
        receive_busiest=transfer["busiest"]["raylet"],
        pull_rate=trainer["chunk_bytes"] / transfer["pull"],
    )


def calibration(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Print a table of the costs in `found`, the result of `measure`. Return name → costs, one for each of `SETS`."""
    table = {name: costs_of(found, name) for name in SETS}
    rows = {
        "worker: decode and store a chunk, ms": [1e3 * costs.decode for costs in table.values()],
        "worker: the same in a process of its own, without Ray, ms": [
            1e3 * found["sets"][name]["decode"] for name in SETS
        ],
        "pool's actor: a question, busiest thread, ms": [1e3 * costs.pool_seconds(4) for costs in table.values()],
        "the same with 1,000 workers": [1e3 * costs.pool_seconds(1000) for costs in table.values()],
        "pool's actor: its other threads, ms": [1e3 * costs.pool_else for costs in table.values()],
        "trainer: ask, ms": [1e3 * costs.ask for costs in table.values()],
        "trainer: wait for the pool's actor, ms": [
            1e3 * (found["trainer"]["ask"] - found["trainer"]["ask_cpu"]) for _ in SETS
        ],
        "trainer: take a chunk out of shared memory, ms": [1e3 * costs.get for costs in table.values()],
        "trainer: copy a chunk into the batch, ms": [1e3 * costs.cut for costs in table.values()],
        "trainer: normalize it besides (without a GPU), ms": [1e3 * found["trainer"]["normalize"] for _ in SETS],
        "raylets: a chunk on one machine, ms": [1e3 * costs.raylet for costs in table.values()],
        "raylet: send a chunk, ms": [1e3 * costs.send for costs in table.values()],
        "raylet: receive a chunk, all threads, ms": [1e3 * costs.receive for costs in table.values()],
        "raylet: receive a chunk, busiest thread, ms": [1e3 * costs.receive_busiest for costs in table.values()],
        "one chunk from node to node, alone, GB/s": [1e-9 * costs.pull_rate for costs in table.values()],
    }
    print(f"\n{'cost of':60} {SETS[0]:>10} {SETS[1]:>10}")
    for name, values in rows.items():
        print(f"{name:60} {values[0]:10.2f} {values[1]:10.2f}")
    return {name: tuple(values) for name, values in rows.items()}


# check


def check(found: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Simulate each pool that `measure` ran, with the cores that other programs left free, and print a table.

    Return a dict for each pool: "set", "workers", "cores", the rates "real" and "simulated" in images/s, and "ratio",
    the simulated rate divided by the real one.
    """
    rows = []
    for name in SETS:
        costs = costs_of(found, name)
        for workers, real in found["pools"][name].items():
            cluster = Cluster(
                workers=1 if workers == TWO_NODES else int(workers),
                trainers=1,
                cores=real["cores_left"],
                batch_size=POSITIONS,
                gpu_rate=1e12,
                link=1e12,
                one_machine=True,
                two_nodes=workers == TWO_NODES,
            )
            own = Costs(**{**vars(costs), "cut": found["trainer"]["normalize"]})
            simulated = Simulation(own, cluster, seed).run(WARM, 20.0)["images_per_second"]
            rate = real["images_per_second"]
            rows.append(
                {
                    "set": name,
                    "workers": workers,
                    "cores": real["cores_left"],
                    "real": rate,
                    "simulated": simulated,
                    "ratio": simulated / rate,
                }
            )
    print(f"\n{'set':12} {'workers':20} {'cores left':>10} {'real':>8} {'simulated':>10} {'ratio':>6} {'error':>7}")
    for row in rows:
        print(
            f"{row['set']:12} {row['workers']:20} {row['cores']:10.2f} {row['real']:8,.0f} {row['simulated']:10,.0f}"
            f" {row['ratio']:6.2f} {100 * (row['ratio'] - 1):+6.0f}%"
        )
    return rows


def check_faults(found: dict[str, Any], seed: int) -> dict[str, float]:
    """Return the longest simulated wait for a batch, in seconds, after one of two workers is killed or frozen.

    `faults` in service.py measures it with a real pool.
    """
    waits = {}
    for name in ("killed", "frozen"):
        costs = Costs(**{**vars(costs_of(found, "original")), "cut": found["trainer"]["normalize"]})
        cluster = Cluster(workers=2, trainers=1, cores=2.0, batch_size=POSITIONS, gpu_rate=1e12, one_machine=True)
        simulation = Simulation(costs, cluster, seed)
        worker = simulation.workers[0]
        happen = {
            "killed": lambda worker=worker, own=cluster: worker.die(own.restart, own.noticed),
            "frozen": lambda worker=worker, own=cluster: worker.freeze(own.freeze),
        }[name]
        simulation.clock.after(WARM + 1.0, happen)
        waits[name] = simulation.run(WARM, 10.0)["longest_wait"]
    return waits


# sweep


def run(costs: Costs, args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """Simulate a `Cluster` with these `options`, long enough for all trainers to fill their windows several times.

    Return the options, the result of `Simulation.run`, and "bound": [name, images/s] of the resource that allows the
    lowest rate according to `capacities`. Rates and used shares are rounded.
    """
    cluster = Cluster(**{"gpu_rate": args.gpu_rate, **options})
    name, bound = min(capacities(costs, cluster).items(), key=lambda each: each[1])
    window = POSITIONS * cluster.window + cluster.batch_size
    rounds = cluster.trainers * window / bound  # seconds
    result = Simulation(costs, cluster, args.seed).run(max(args.warm, 2 * rounds), max(args.seconds, 3 * rounds))
    busy = {each: round(value, 3) for each, value in result.pop("busy").items()}
    rates = {"images_per_second": round(result.pop("images_per_second")), "longest_wait": result.pop("longest_wait")}
    return {**options, "bound": [name, round(bound)], **rates, **result, "busy": busy}


def sweep(found: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    costs = {name: costs_of(found, name) for name in SETS}
    original, begun = costs["original"], time.perf_counter()
    grid = [
        run(original, args, workers=workers, trainers=trainers, link=link)
        for link in LINKS.values()
        for trainers in GPUS
        for workers in WORKERS
    ]
    print(f"\nimages/s by GPUs and workers, {args.gpu_rate:,.0f} images/s per GPU, with the limiting resource")
    for name, link in LINKS.items():
        print(f"\n{name:>8} " + "".join(f"{f'{workers} workers':>24}" for workers in WORKERS))
        for trainers in GPUS:
            cells = [row for row in grid if row["link"] == link and row["trainers"] == trainers]
            texts = [f"{row['images_per_second']:,.0f} {row['limit']}" for row in cells]
            print(f"{trainers:5} GPU " + "".join(f"{text:>24}" for text in texts))
    fast, long = LINKS["100 GbE"], argparse.Namespace(**{**vars(args), "seconds": 60.0})
    results: dict[str, Any] = {
        "grid": grid,
        "window": [
            run(original, args, workers=64, trainers=1, trainers_per_machine=1, link=fast, window=window, gpu_rate=1e6)
            for window in (2, 4, 6, 8, 12, 16)
        ],
        "storage": [
            run(original, args, workers=250, trainers=trainers, link=fast, storage=1e9) for trainers in (1, 2, 4, 8)
        ],
        "together": [
            run(original, args, workers=64, trainers=trainers, link=fast, together=trainers)
            for trainers in (1, 2, 4, 8)
        ],
        "head with workers": [
            run(original, args, workers=64, trainers=32, link=fast, shared_head=here) for here in (False, True)
        ],
        "not in turn": [
            run(original, args, workers=workers, trainers=16, in_turn=False) for workers in (100, 250, 1000)
        ],
        "in turn": [run(original, args, workers=workers, trainers=16) for workers in (100, 250, 1000)],
        "faults": [
            run(original, long, workers=100, trainers=8, link=fast, **faults)
            for faults in ({}, {"killed": 3.0}, {"frozen": 3.0}, {"lost": 12.0})
        ],
    }
    for name, rows in results.items():
        if name != "grid":
            print(f"\n{name}")
            for row in rows:
                shown = {key: value for key, value in row.items() if key in Cluster.__dataclass_fields__}
                print(
                    f"  {row['images_per_second']:9,.0f} images/s  {row['limit']:15} longest wait"
                    f" {row['longest_wait']:5.2f} s, {row['second_asks']} second asks, {row['faults']} faults  {shown}"
                )
    print(f"\n{time.perf_counter() - begun:.0f} s")
    return results


def draw(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Plot images/s over workers from the "grid" of `results`, and write the picture to `args.picture`.

    There is one panel per link speed and one line per number of GPUs. Markers show the limiting resource.
    """
    from dali_mix.reports import style

    grid = results["grid"]
    limits = sorted({row["limit"] for row in grid})
    marks = dict(zip(limits, "osD^vPX*", strict=False))
    colours = ("#9bb8d3", style.BLUE, style.GREEN, style.ORANGE, "#8c3b3b")
    figure = style.new_figure(8, 8.4)
    for panel, (name, link) in enumerate(LINKS.items()):
        axes = figure.add_subplot(2, 1, panel + 1)
        style.plain(axes, f"{name}, originals, simulated")
        axes.title.set_fontsize(12)
        axes.tick_params(labelsize=10)
        ends: list[tuple[float, int]] = []
        for trainers, colour in zip(GPUS, colours, strict=True):
            rows = [row for row in grid if row["link"] == link and row["trainers"] == trainers]
            x, y = [row["workers"] for row in rows], [row["images_per_second"] for row in rows]
            axes.loglog(x, y, color=colour, linewidth=1.8)
            for row in rows:
                axes.plot(row["workers"], row["images_per_second"], marks[row["limit"]], color=colour, markersize=7)
            ends.append((y[-1], trainers))
        for y, first in ends:
            near = [trainers for end, trainers in ends if abs(math.log(end / y)) < 0.25]  # labels would overlap
            if first == near[0]:
                text = f"{', '.join(map(str, near))} GPU{'s' * (near != [1])}"
                axes.annotate(text, (WORKERS[-1], y), (9, -4), textcoords="offset points", fontsize=10, color=style.INK)
        axes.set_xlim(0.8, 4500)
        axes.set_xticks(WORKERS, [f"{workers:,}" for workers in WORKERS])
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.set_ylabel("images/s", fontsize=10)
    axes.set_xlabel("workers (a core each)", fontsize=10)
    shown = [axes.plot([], [], marks[limit], color=style.INK, markersize=7, label=limit)[0] for limit in limits]
    figure.legend(
        handles=shown, title="limited by", fontsize=10, title_fontsize=10, frameon=False, ncols=3, loc="lower center"
    )
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    style.save(figure, args.picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help="measure, check, sweep, draw (default: the first three)")
    add_images(parser)
    parser.add_argument("--batches", type=int, default=100, help="batches per measurement of a real pool")
    parser.add_argument("--gpu-rate", type=float, default=3000.0, help="images/s that a GPU can train on")
    parser.add_argument("--warm", type=float, default=WARM, help="simulated seconds of warm-up")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="simulated seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=26400, help="first port; ports up to 50 higher are used too")
    parser.add_argument("--costs", type=Path, default=DOCS / "service_costs.json")
    parser.add_argument("--out", type=Path, default=DOCS / "service_scale.json")
    parser.add_argument("--picture", type=Path, default=DOCS / "service_scale.png")
    args = parser.parse_args()
    if unknown := set(args.steps) - {"measure", "check", "sweep", "draw"}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    steps = args.steps or ["measure", "check", "sweep"]
    if steps == ["draw"]:
        draw(json.loads(args.out.read_text()), args)
        print(f"written to {args.picture}")
        return 0
    if "measure" in steps:
        if importlib.util.find_spec("ray") is None:
            print("measure: skipped, ray is not installed (pip install 'dali_mix[service]')")
        else:
            write_json(args.costs, measure(args))
            print(f"written to {args.costs}")
    found = json.loads(args.costs.read_text())
    results: dict[str, Any] = {"environment": found["environment"], "costs": calibration(found)}
    if "check" in steps:
        results |= {"check": check(found, args.seed), "longest wait": check_faults(found, args.seed)}
        print("\nlongest wait, simulated: " + ", ".join(f"{k} {v:.2f} s" for k, v in results["longest wait"].items()))
    if "sweep" in steps:
        results |= sweep(found, args)
        draw(results, args)
        write_json(args.out, results)
        print(f"written to {args.out} and {args.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
