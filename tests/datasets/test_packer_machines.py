"""Packing and verifying shards on other machines: jobs are pickled, run in any order, and may run twice."""

import hashlib
import os
import pickle

import pytest

from dali_mix.datasets import Options, PackOptions, Transform, find_layout, pack_listing
from dali_mix.datasets.trees import MemoryTree
from dali_mix.recordio.verify import verify_set
from tests.datasets.files import archived
from tests.recordio.samples import encoded


class FakeMachines:
    """A local substitute for several machines that runs pickled jobs in reverse order, each twice.

    The first result of each job is used.
    """

    def __init__(self):
        self.seen = []

    def map(self, work, count, arguments, sees, progress=None):
        self.seen.append(dict(sees))
        assert all(path.exists() for path in sees)
        results = {}
        for number in reversed(range(count)):
            sent = pickle.dumps((work, arguments(number)))
            for tell in (progress or (lambda done: None), lambda done: None):
                job, values = pickle.loads(sent)  # noqa: TID251
                results.setdefault(number, pickle.dumps(job(*values, tell)))
        for number in range(count):
            yield pickle.loads(results[number])  # noqa: TID251


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def root(tmp_path):
    for number in range(50):
        path = tmp_path / "images" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("JPEG", 20 + number, 30, seed=number))
    return tmp_path / "images"


@pytest.mark.parametrize("shards", [1, 7])
@pytest.mark.parametrize("source", ["folder", "zip"])
def test_shards_packed_on_machines_are_identical(root, tmp_path, source, shards):
    source = root if source == "folder" else archived(root, tmp_path / "images.zip")
    listing = find_layout("imagefolder")(source, "train", Options())
    how = PackOptions(Transform(resize=16), shuffle=2, shards=shards)
    counts = []
    pack_listing(listing, tmp_path / "here" / "set", how)
    info = pack_listing(listing, tmp_path / "there" / "set", how, counts.append, FakeMachines())
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert len(info.parts) == shards and sum(counts) == 50


def test_empty_shard_is_an_error_locally_and_on_machines(root, tmp_path):
    listing = find_layout("imagefolder")(root, "train", Options())
    for name in listing.names[10:20]:
        (root / name).write_bytes(b"")
    for machines in (None, FakeMachines()):
        with pytest.raises(ValueError, match="a shard would be empty after skipping; use fewer --shards"):
            pack_listing(listing, tmp_path / "out" / "set", PackOptions(shards=5, skip_bad=True), None, machines)
        assert list((tmp_path / "out").iterdir()) == []


def test_abandoned_partial_files_are_removed(root, tmp_path):
    listing = find_layout("imagefolder")(root, "train", Options())
    (tmp_path / "out").mkdir()
    ours = [".set-00003.rec.0123abcd.partial", ".set.rec.0123abcd.partial", ".set.json.ffffffff.partial"]
    others = [".set-00003.rec.0123abc.partial", ".settled.rec.0123abcd.partial", ".set-b.rec.0123abcd.partial"]
    for name in ours + others:
        (tmp_path / "out" / name).touch()
    pack_listing(listing, tmp_path / "out" / "set", PackOptions())
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {*others, "set.rec", "set.idx", "set.npy", "set.json"}


def test_in_memory_images_are_refused_on_machines(root, tmp_path):
    listing = find_layout("imagefolder")(root, "train", Options())
    listing.__dict__["tree"] = MemoryTree("memory", lambda name: b"")
    with pytest.raises(
        ValueError, match=r"^memory: these images are made in memory here: pack them without --cluster$"
    ):
        pack_listing(listing, tmp_path / "out" / "set", PackOptions(), None, FakeMachines())
    assert not (tmp_path / "out").exists()


def undecodable(image):
    raise ValueError("cannot be decoded")


def test_verify_decodes_on_machines(root, tmp_path):
    listing = find_layout("imagefolder")(root, "train", Options())
    pack_listing(listing, tmp_path / "out" / "set", PackOptions(shards=3))
    here = list(verify_set(tmp_path / "out" / "set", decode=undecodable))
    assert len(here) == 50 and all("cannot be decoded" in problem for problem in here)
    assert list(verify_set(tmp_path / "out" / "set", decode=undecodable, machines=FakeMachines())) == here


@pytest.mark.parametrize("names", [[], ["set-00001.rec"], ["set.npy", "set-00001.rec"], ["set.idx", "set-00002.rec"]])
def test_verify_on_machines_finds_same_damage(root, tmp_path, names):
    listing = find_layout("imagefolder")(root, "train", Options())
    pack_listing(listing, tmp_path / "out" / "set", PackOptions(shards=3))
    for name in names:
        data = bytearray((tmp_path / "out" / name).read_bytes())
        data[-9] ^= 1
        (tmp_path / "out" / name).write_bytes(data)
    here = list(verify_set(tmp_path / "out" / "set"))
    machines = FakeMachines()
    assert list(verify_set(tmp_path / "out" / "set", machines=machines)) == here
    assert len(here) == len(names)
    assert machines.seen == [{tmp_path / "out" / "set.json": f"{tmp_path}{os.sep}out{os.sep}set.json"}]
