"""Weight files that must be refused: they would run code, are damaged or contain no weights."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dali_mix.models import build_model, load_weights, read_state_dict


def make(num_classes=5, seed=0):
    torch.manual_seed(seed)
    return build_model("wrn-10-1", num_classes)


class Marker:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy", "bare pickle"])
def test_file_that_would_run_code_is_refused(tmp_path, recwarn, kind):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    content = {"state_dict": make().state_dict(), "payload": Marker(marker)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch zip")
    recwarn.clear()
    with pytest.raises(ValueError, match=r"evil\.pth was refused"):
        load_weights(make(), path)
    assert not marker.exists() and not recwarn.list
    function, arguments = Marker(marker).__reduce__()
    function(*arguments)
    assert marker.exists(), "running the payload must create the marker"


@pytest.mark.parametrize("cut", [5, 200, -400])
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_truncated_weight_file_is_refused(tmp_path, save, cut):
    path = tmp_path / "w.bin"
    save(make().state_dict(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"w\.bin (is|was) (a damaged|refused|not)"):
        load_weights(make(), path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new_format", [True, False])
def test_changed_byte_is_harmless_or_error_names_file(tmp_path, new_format):
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    named = 0
    for place in range(4, min(len(whole), 400)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        try:
            read_state_dict(path)
        except ValueError as error:
            assert str(path) in str(error), f"byte {place}: {error}"
            named += 1
    assert named > 50


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"step-00000004.pt\n", b"\x00" * 64])
def test_other_file_content_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth is not a weight file"):
        load_weights(make(), tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}, torch.zeros(2)])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth (contains|has)"):
        read_state_dict(tmp_path / "w.pth")


def test_duplicate_names_without_prefix_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"two entries are called a"):
        read_state_dict(tmp_path / "w.pth")


def test_missing_weight_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_weights(make(), tmp_path / "nothing.pth")


def test_wrong_path_error_suggests_weight_files(tmp_path):
    for age, name in enumerate(("resnet50.safetensors", "a.txt", "checkpoints/old.pt", "checkpoints/best.pt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    newest = ["resnet50.safetensors", "checkpoints/old.pt", "checkpoints/best.pt"]
    advice = "; pass a weight file, or a checkpoint of a run"
    for path, said in (
        (tmp_path / "resnet50.pth", f"no such file (did you mean resnet50.safetensors?){advice}"),
        (tmp_path / "none" / "resnet5.pth", f"no such file{advice}"),
        (tmp_path / "checkpoints" / "latest", f"no such file{advice}"),
        (tmp_path, f"a folder; pass a weight file or checkpoint in it: {', '.join(newest)}"),
    ):
        with pytest.raises(FileNotFoundError) as raised:
            load_weights(make(), path)
        assert str(raised.value) == f"{path}: {said}"
