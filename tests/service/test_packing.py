"""Packing and verifying on two machines give the same bytes, messages and status as on one, even if workers die."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dali_mix import _machines
from dali_mix._code import code_digest
from dali_mix.cli.main import main
from dali_mix.datasets import Options, PackOptions, Transform, find_layout, pack_listing
from dali_mix.datasets.images.decoding import decoded_size
from dali_mix.recordio.verify import verify_set
from dali_mix.service import packing
from dali_mix.service.packing import RayMachines
from dali_mix.service.spec import versions
from tests.datasets.files import archived
from tests.recordio.samples import encoded
from tests.service.serving import Serve, processes, until

LARGE = Transform(resize=1000)  # about 20 ms per image of `large`


@pytest.fixture(scope="module")
def second_machine(head, settings):
    """Start a second machine, with one worker."""
    node = Serve(settings, "--workers", 1, "--join", head.address).ready()
    yield node
    node.kill()


@pytest.fixture
def machines(pool, second_machine):
    return RayMachines(pool)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder of 42 pictures in 3 classes, some of them rotated by EXIF, and a text file."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(42):
        kind = ("JPEG", "PNG", "BMP")[number % 3]
        path = root / "images" / str(number % 3) / f"{number}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        turn = 6 if number % 4 == 0 and kind == "JPEG" else 1
        path.write_bytes(encoded(kind, 40 + number, 60, seed=number, **({"turn": turn} if turn > 1 else {})))
    (root / "images" / "0" / "note.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder of large pictures. Packing them takes long enough to kill processes meanwhile."""
    root = tmp_path_factory.mktemp("large")
    data = encoded("JPEG", 1500, 2000)
    for number in range(96):
        path = root / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(scope="module")
def packed_locally(large, tmp_path_factory):
    """Pack `large` on one machine, in 8 shards; return the prefix."""
    prefix = tmp_path_factory.mktemp("packed_locally") / "set"
    pack_listing(listing_of(large), prefix, PackOptions(LARGE, shuffle=1, shards=8))
    return prefix


def listing_of(root):
    return find_layout("imagefolder")(root, "train", Options())


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def tasks(*serves):
    """Return the process ids of packing and verifying tasks on these machines."""
    sessions = {session for serve in serves for session in serve.sessions()}
    return [pid for pid, session, name in processes() if session in sessions and name.startswith("ray::run")]


def run_both(capfd, tmp_path, address, arguments, out=True):
    """Run a command without and with `--cluster`; return [(status, error stream, digests of files)] of both."""
    found = []
    for name, more in (("here", []), ("there", ["--cluster", address])):
        (tmp_path / name).mkdir()
        wanted = ["--out", str(tmp_path / name / "set")] if out else []
        status = main([*arguments, *wanted, "--quiet", *more])
        error = capfd.readouterr().err
        found.append((status, error.replace(f"/{name}/", "/"), digests(tmp_path / name)))
    return found


def folder(root):
    return ["imagefolder", "--root", root / "images", "--resize", "32", "--quality", "80", "--shuffle", "3"]


def relative_folder(root):
    os.chdir(root)
    return ["imagefolder", "--root", "images", "--val-share", "0.2", "--split", "train", "--check", "decode"]


def zip_file(root):
    path = archived(root / "images", root / "images.zip")
    return ["imagefolder", "--root", path, "--max-side", "50", "--encoding", "jpeg", "--workers", "2"]


def raw(root):
    return ["imagefolder", "--root", root / "images", "--encoding", "raw", "--no-shuffle"]


def skipped(root):
    shutil.copytree(root / "images", root / "bad")
    for path in sorted((root / "bad").rglob("*.jpeg"))[::3]:
        path.write_bytes(path.read_bytes()[:99])
    return ["imagefolder", "--root", root / "bad", "--skip-bad"]


def listed(root, name, row):
    files = sorted(path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.*eg"))
    (root / name).write_text(json.dumps([{"path": path, **row(number)} for number, path in enumerate(files)]))
    (root / "names").write_text("cat\ndog\n")
    return ["list", "--root", root / "images", "--list", root / name, "--classes", root / "names"]


def multilabel(root):
    return [
        *listed(root, "multi.json", lambda n: {"label": [1 - n % 3, n % 2]}), "--task", "multilabel", "--shuffle", "0"
    ]  # fmt: skip


def boxes(root):
    row = [[1, 0.25, 0.1, 0.5, 0.9], [0, -0.001, 0.2, 0.3, 0.6, 1]]
    return [*listed(root, "boxes.json", lambda n: {"boxes": row[: n % 3]}), "--exif", "ignore", "--shuffle", "5"]


@pytest.mark.parametrize("options", [folder, relative_folder, zip_file, raw, skipped, multilabel, boxes])
@pytest.mark.parametrize("shards", [5])
def test_cluster_packs_identical_bytes(head, second_machine, photos, tmp_path, capfd, monkeypatch, options, shards):
    monkeypatch.chdir(tmp_path)
    root = Path(shutil.copytree(photos, tmp_path / "root"))
    arguments = [*map(str, options(root)), "--shards", str(shards)]
    here, there = run_both(capfd, tmp_path, head.address, ["pack", *arguments])
    assert here == there
    assert here[0] == 0 and len(here[2]) == shards + 3
    if options is skipped:
        assert '"skipped": [\n   {' in (tmp_path / "there" / "set.json").read_text()


def test_progress_counts_every_image(machines, photos, tmp_path):
    counts = []
    listing = listing_of(photos / "images")
    pack_listing(listing, tmp_path / "set", PackOptions(shards=6), counts.append, machines)
    assert sum(counts) == len(listing.names) == 42 and min(counts) > 0
    assert list(verify_set(tmp_path / "set", progress=counts.append, machines=machines)) == []
    assert sum(counts) == 84


class Packing:
    """A thread that packs `large` while a test kills or freezes processes."""

    def __init__(self, machines, root, prefix):
        self.error = None
        self._thread = threading.Thread(target=self._run, args=(machines, root, prefix))
        self._thread.start()

    def _run(self, machines, root, prefix):
        try:
            pack_listing(listing_of(root), prefix, PackOptions(LARGE, shuffle=1, shards=8), None, machines)
        except Exception as error:
            self.error = error

    def ended(self):
        self._thread.join(120)
        assert not self._thread.is_alive()
        assert self.error is None, self.error


def partial_files(prefix, least=1):
    """Return the partial files of tries that have at least `least` bytes."""
    return [path for path in prefix.parent.glob(".set-*.rec.*.partial") if path.stat().st_size >= least]


def kill_tasks(machines, head):
    """Kill tasks until a try is lost; return their number. One may not be enough: a task may have just ended."""
    killed = set()

    def lost():
        for pid in set(tasks(head)) - killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return machines.lost

    until(lost)
    return len(killed)


def test_killed_worker_changes_no_byte(machines, head, large, packed_locally, tmp_path):
    prefix = tmp_path / "set"
    running = Packing(machines, large, prefix)
    until(lambda: partial_files(prefix))
    killed = kill_tasks(machines, head)
    running.ended()
    assert 1 <= machines.lost <= killed
    assert digests(tmp_path) == digests(packed_locally.parent)


def test_frozen_worker_changes_no_byte(machines, head, large, packed_locally, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LATE", 1)
    monkeypatch.setattr(packing, "LATE_AT_LEAST", 0.1)
    running = Packing(machines, large, tmp_path / "set")
    pid = until(lambda: partial_files(tmp_path / "set") and tasks(head))[0]
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGSTOP)
    try:
        running.ended()
        assert digests(tmp_path) == digests(packed_locally.parent)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_work_that_always_kills_its_process_raises(machines, monkeypatch):
    monkeypatch.setattr(packing, "AVOID", 0.0)
    with pytest.raises(ValueError, match=r"^shard 1 of 2 was lost 4 times with the process that worked on it, last on"):
        list(machines.map(lambda number, tell: number and os._exit(1), 2, lambda number: (number,), {}))
    assert machines.lost == 4


def test_bad_image_error_equals_local_one(machines, head, large, tmp_path, capfd):
    """The error names the first bad image in the set's order, as on one machine. No task is repeated or continues."""
    root = Path(shutil.copytree(large, tmp_path / "root"))
    names = [listing_of(root).names[number] for number in (22, 40, 80)]  # the others are decoded before the first
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:5000])
    arguments = ["pack", "imagefolder", "--root", str(root), "--no-shuffle", "--shards", "4", "--resize", "900"]
    here, there = run_both(capfd, tmp_path, head.address, arguments)
    assert here == there
    assert here[0] == 1 and here[2] == {} and names[0] in here[1] and here[1].count("\n") == 1
    with pytest.raises(ValueError, match=re.escape(names[0])):
        pack_listing(listing_of(root), tmp_path / "set", PackOptions(LARGE, shards=4), None, machines)
    assert machines.lost == 0
    until(lambda: not tasks(head))


@pytest.mark.parametrize("name", ["images.tar.gz", "images.tar"])
def test_tar_file_is_refused(head, photos, tmp_path, capfd, name):
    path = archived(photos / "images", tmp_path / name)
    status = main(
        ["pack", "imagefolder", "--root", str(path), "--out", str(tmp_path / "set"), "--cluster", head.address]
    )
    assert status == 1 and capfd.readouterr().err == (
        f"dali-mix pack: error: {path}: a tar file is read from its beginning to its end, so several machines cannot"
        " share the work: unpack it into a folder, make a .zip of it, or pack without --cluster\n"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_in_memory_images_are_refused(head, tmp_path, capfd):
    status = main(["pack", "digits", "--out", str(tmp_path / "set"), "--cluster", head.address])
    assert status == 1 and "scikit-learn: these images are made in memory here" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unseen", ["photos", "out", "empty"])
def test_folder_missing_on_another_machine_is_named(head, photos, tmp_path, capfd, monkeypatch, unseen):
    """/proc/self/cwd is a different folder for each process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    shutil.copytree(photos / "images", tmp_path / "photos")
    where = {name: f"{'/proc/self/cwd' if name == unseen else tmp_path}/{name}" for name in ("photos", "out")}
    named = where.get(unseen)
    if unseen == "empty":  # the folder exists, but nothing is mounted there
        monkeypatch.chdir(tmp_path / "photos")
        where["photos"], named = "/proc/self/cwd", "/proc/self/cwd/0/0.jpeg"
    arguments = ["pack", "imagefolder", "--root", where["photos"], "--out", f"{where['out']}/set"]
    assert main([*arguments, "--cluster", head.address]) == 1
    assert re.fullmatch(
        rf"dali-mix pack: error: {named}: not found on {os.uname().nodename}, of the pool at {head.address}:"
        r" --cluster needs a file system that all machines of the pool share, mounted at the same path\n",
        capfd.readouterr().err,
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_different_encoder_versions_are_refused(machines, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dali_mix._machines.pixel_versions", lambda: {"opencv": "0.1"})
    with pytest.raises(ValueError, match=r"the pool has different versions: .*opencv 0\.1 here, \d"):
        pack_listing(listing_of(photos / "images"), tmp_path / "set", PackOptions(), None, machines)


def test_package_code_is_compared_by_content(tmp_path, monkeypatch):
    """The code that encodes, labels and writes is compared by content."""
    assert {"dali_mix.datasets", "dali_mix.recordio", "dali_mix._labels"} <= _machines.pixel_versions().keys()
    assert {"dali_mix.pipelines", "dali_mix.compiled", "dali_mix._labels"} <= versions().keys()
    digests = []
    for name, content in (("one", "a = 1\n"), ("two", "a = 1\r\n"), ("three", "a = 2\n")):
        inner = tmp_path / name / "inner"
        inner.mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (inner / "file.py").write_bytes(content.encode())
        if name == "two":  # files that editors leave behind
            (inner / ".#file.py").symlink_to("nowhere")
            (inner / ".ipynb_checkpoints").mkdir()
            (inner / ".ipynb_checkpoints" / "file.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        digests.append(code_digest(name))
    assert digests[0] == digests[1] != digests[2]


def test_cluster_option_refuses_invalid_address(tmp_path, photos, capfd):
    for command in (["pack", "imagefolder", "--root", str(photos), "--out", str(tmp_path / "set")], ["verify", "set"]):
        assert main([*command, "--cluster", ":80"]) == 1
        advice = "give HOST:PORT as printed by `dali-mix serve`, or auto"
        assert f"':80' is not an address: {advice}" in capfd.readouterr().err


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["nothing", "bytes", "table", "missing"])
def test_cluster_verify_gives_same_messages(head, second_machine, packed_locally, tmp_path, capfd, damage):
    root = Path(shutil.copytree(packed_locally.parent, tmp_path / "set"))
    if damage in ("bytes", "table"):
        for number, offset in ((6, 1000), (2, 2000), (2, 900_000), (4, -1)):
            flip(root / f"set-{number:05d}.rec", offset)
    if damage == "table":
        flip(root / "set.npy", -1)
    if damage == "missing":
        (root / "set-00003.rec").unlink()
    here, there = run_both(capfd, tmp_path, head.address, ["verify", str(root / "set")], out=False)
    assert here == there
    assert here[:1] == (int(damage != "nothing"),)
    assert here[1].count("\n") == {"nothing": 0, "bytes": 4, "table": 4, "missing": 1}[damage]


def test_verify_survives_killed_worker(machines, head, packed_locally):
    def decode(image):
        time.sleep(0.02)
        return decoded_size(image)

    found = []
    thread = threading.Thread(
        target=lambda: found.append(list(verify_set(packed_locally, decode=decode, machines=machines)))
    )
    thread.start()
    kill_tasks(machines, head)
    thread.join(120)
    assert not thread.is_alive() and found == [[]]


def test_signal_leaves_same_files_as_without_cluster(head, large, packed_locally, tmp_path):
    """Ctrl-C leaves no files. SIGTERM leaves files that the next packer removes. Both end the tasks."""
    options = ["--root", large, "--resize", "1000", "--shuffle", "1", "--shards", "8", "--quiet"]
    command = [sys.executable, "-m", "dali_mix", "pack", "imagefolder", *options, "--cluster", head.address, "--out"]
    running = {
        number: subprocess.Popen(
            [*map(str, command), tmp_path / number.name / "set"], stderr=subprocess.PIPE, text=True
        )
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    todo = dict(running)
    while todo:
        number = until(lambda: next((number for number in todo if partial_files(tmp_path / number.name / "set")), None))
        todo.pop(number).send_signal(number)
    errors = {number: process.communicate(timeout=120)[1] for number, process in running.items()}
    assert {number: process.returncode for number, process in running.items()} == {
        signal.SIGINT: 130,
        signal.SIGTERM: -signal.SIGTERM,
    }
    assert errors == {signal.SIGINT: "dali-mix pack: interrupted\n", signal.SIGTERM: ""}
    until(lambda: not tasks(head))
    assert list((tmp_path / "SIGINT").iterdir()) == []
    left = [path.name for path in (tmp_path / "SIGTERM").iterdir()]
    assert left and all(re.fullmatch(r"\.set\.lock|\.set[-.][\w.]*\.partial", name) for name in left)
    time.sleep(0.1)
    pack_listing(listing_of(large), tmp_path / "SIGTERM" / "set", PackOptions(LARGE, shuffle=1, shards=8))
    assert digests(tmp_path / "SIGTERM") == digests(packed_locally.parent)


def test_machine_that_joins_and_is_lost_changes_no_byte(
    machines, head, settings, large, packed_locally, tmp_path, monkeypatch
):
    """Ray may need more than 10 s to notice the loss. By then, another machine may pack its shards again."""
    monkeypatch.setattr(packing, "REFRESH", 0.2)
    monkeypatch.setattr(packing, "LATE_AT_LEAST", 1.0)
    node = Serve(settings, "--workers", 2, "--join", head.address)
    try:
        with closing(machines.map(lambda tell: time.sleep(0.1), 3000, lambda number: (), {})) as results:
            assert any(tasks(node) for _ in results)
        until(lambda: not tasks(node, head))
        running = Packing(machines, large, tmp_path / "set")
        until(lambda: tasks(node) and partial_files(tmp_path / "set"))
        node.kill()
        running.ended()
    finally:
        node.kill()
    assert digests(tmp_path) == digests(packed_locally.parent)
