"""Manifests: fields, checksums, and the prefix of a set."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import dali_mix
from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from dali_mix.recordio.manifest import read_info, set_prefix
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import image_folder, small_set


def test_fingerprint_depends_on_content_only(tmp_path: Path) -> None:
    first = small_set(tmp_path / "one", 4).fingerprint
    assert small_set(tmp_path / "two", 4).fingerprint == first
    assert small_set(tmp_path / "more", 5).fingerprint != first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("format", "other"),
        ("task", "segmentation"),
        ("count", -1),
        ("count", "10"),
        ("count", True),
        ("classes", "abc"),
        ("classes", [1, 2]),
        ("parts", []),
        ("parts", [{"name": "../set.rec", "size": 1, "sha256": ""}]),
        ("parts", [{"name": "/etc/passwd", "size": 1, "sha256": ""}]),
        ("parts", [{"name": "set.rec"}]),
        ("parts", ["set.rec"]),
        ("index", {"name": "..", "size": 1, "sha256": ""}),
        ("table", None),
        ("options", []),
        ("label_width", 1.5),
    ],
)
def test_manifest_with_wrong_field_is_refused(tmp_path: Path, field: str, value: object) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set.json"
    content = json.loads(path.read_text()) | {field: value}
    del content["sha256"]  # older sets have no checksum; with one, it would detect the change first
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"set\.json: "):
        RecordSet(tmp_path / "set")


def test_changed_byte_in_manifest_is_found(tmp_path: Path) -> None:
    info = dataclasses.replace(
        small_set(tmp_path / "set", split="zürich"), source="list", options={"quality": 95.5, "é": None}
    )
    path = tmp_path / "set.json"
    path.write_text(info.to_json(), encoding="utf-8")
    text = path.read_bytes()
    assert RecordSet(tmp_path / "set").info == info
    for offset in range(len(text)):
        path.write_bytes(text[:offset] + bytes([text[offset] ^ 1]) + text[offset + 1 :])
        try:
            found = read_info(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # the change is in the name of the checksum field or in white space
            assert found == info
    path.write_bytes(text.replace(b'"bee"', b'"bea"'))
    changed = r"set\.json: .*it changed since it was written; copy it again"
    with pytest.raises(ValueError, match=changed):
        RecordSet(tmp_path / "set")
    (problem,) = verify_set(tmp_path / "set")
    assert re.search(changed, problem)


def test_manifest_without_checksum_or_reformatted_opens(tmp_path: Path) -> None:
    info = small_set(tmp_path / "set")
    path = tmp_path / "set.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert RecordSet(tmp_path / "set").info == info
    del content["sha256"]  # the earliest sets have no checksum
    path.write_text(json.dumps(content))
    assert RecordSet(tmp_path / "set").info == info and list(verify_set(tmp_path / "set")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "dali_mix record set"}', "\xff"])
def test_invalid_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"set\.json"):
        RecordSet(tmp_path / "set")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def test_pickled_table_or_manifest_runs_no_code(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    marker = tmp_path / "ran"
    good = (tmp_path / "set.npy").read_bytes()
    bomb = np.array([_Bomb(marker)] * 10, dtype=object)
    np.save(tmp_path / "set.npy", bomb, allow_pickle=True)
    data = (tmp_path / "set.npy").read_bytes()
    (tmp_path / "set.npy").write_bytes(data + bytes(max(0, len(good) - len(data))))
    with pytest.raises(ValueError, match=r"set\.npy: not the table"):
        RecordSet(tmp_path / "set")
    (tmp_path / "set.npy").write_bytes(good)
    (tmp_path / "set.json").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(ValueError, match=r"set\.json: not a manifest"):
        RecordSet(tmp_path / "set")
    assert not marker.exists()


Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("suffix", ["", ".json", ".rec", ".idx", ".npy"])
def test_any_file_of_a_set_may_be_passed_as_prefix(tmp_path: Path, capsys: Capture, suffix: str) -> None:
    small_set(tmp_path / "set")
    given = f"{tmp_path}/set{suffix}"
    assert RecordSet(given).prefix == tmp_path / "set"
    assert list(verify_set(given)) == []
    assert len(list(dali_mix.build_loader("imagenet", given, batch_size=10, train=False))) == 1
    (tmp_path / "set.idx").unlink()
    for command in (
        ["adopt", "--reindex"],
        ["verify"],
        ["inspect"],
        ["gallery", "--out", f"{tmp_path}/g.png"],
    ):
        assert main([command[0], given, *command[1:]]) == 0, capsys.readouterr().err
    out = ["--from", "random", "--out", str(tmp_path / "e.npy")]
    assert main(["embed-labels", given, *out]) == 0
    image_folder(tmp_path / "in")
    command = ["pack", "imagefolder", "--root", str(tmp_path / "in"), "--out", f"{tmp_path}/new{suffix}"]
    assert main(command) == 0
    assert f"{tmp_path}/new: 12 images" in capsys.readouterr().out and (tmp_path / "new.rec").exists()
    assert main(command) == 1  # the same prefix


def test_shard_path_resolves_to_its_set(tmp_path: Path) -> None:
    small_set(tmp_path / "set", shards=3)
    assert RecordSet(tmp_path / "set-00001.rec").prefix == tmp_path / "set"
    assert set_prefix(tmp_path / "other-00001.rec") == tmp_path / "other-00001"


@pytest.mark.parametrize("name", ["v1.json", "a.rec", "b.idx", "set.v2", "set.2026.01", ".hidden", "x.npy"])
def test_prefix_may_end_like_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain.json").write_text("{}")
    small_set(tmp_path / "plain2")
    for path in list(tmp_path.glob("plain2.*")):
        path.rename(tmp_path / f"{name}{path.suffix}")
    assert set_prefix(tmp_path / name) == tmp_path / name
    assert set_prefix(tmp_path / f"{name}.rec") == tmp_path / name
