"""Following the advice in a message succeeds and does not print the same message again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.datasets.advice import CASES, Case
from tests.recordio.samples import small_set

ROOT = Path(__file__).parents[2]


Capture = pytest.CaptureFixture[str]


def run(command: str) -> int:
    arguments = command.split()
    return main([*arguments, "--quiet"] if arguments[0] in ("pack", "adopt", "verify") else arguments)


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case.advice).strip("-")[:50])
def test_following_advice_succeeds(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.chdir(tmp_path)
    if "= " in case.follow:
        (tmp_path / "names").write_text("a\nx\n")
    case.make(tmp_path)
    status = run(case.command)
    said = capsys.readouterr().err
    assert case.advice in said and (status == 1 or "note: " in said)
    how, _, rest = case.follow.partition(" ")
    if how == "+":  # the last of repeated options wins
        again = f"{case.command} {rest}"
    elif how == "-":
        assert rest in case.command
        again = case.command.replace(rest, "")
    elif how == "=":
        named = Path(case.command.rpartition("--classes ")[2])
        named.write_text(rest)
        again = case.command
    else:
        again = case.follow
    assert run(again) == 0, capsys.readouterr().err
    out = again.rpartition("--out ")[2].split()[0] if "--out" in again else "set"
    assert list(verify_set(out)) == [] and len(RecordSet(out))
    assert case.advice not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["label", "image", "frame"])
def test_verify_finds_damage_that_inspect_reports(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small_set(tmp_path / "set", 4)
    start = int(RecordSet("set").table["offset"][2])
    data = bytearray(Path("set.rec").read_bytes())
    data[start + {"label": 13, "image": 200, "frame": 0}[place]] ^= 255
    Path("set.rec").write_bytes(data)
    assert main(["inspect", "set", "--record", "2"]) == 1
    assert "set.rec: record 2: " in (said := capsys.readouterr().err) and "run `dali-mix verify set`" in said
    assert main(["verify", "set", "--quiet"]) == 1
    assert "set.rec: record 2: " in capsys.readouterr().err


def test_verify_finds_changed_label_in_table(tmp_path: Path, capsys: Capture) -> None:
    small_set(tmp_path / "set", 4)
    path = tmp_path / "set.npy"
    data = bytearray(path.read_bytes())
    field = RecordSet(tmp_path / "set").table.dtype.fields["label"]
    data[len(data) - 4 * 40 + field[1] : len(data) - 4 * 40 + field[1] + 4] = b"\0\0\x20\x41"  # 10.0
    path.write_bytes(data)
    assert main(["inspect", str(tmp_path / "set"), "--record", "0"]) == 1
    assert f"label 10.0 is not one of 3 classes; run `dali-mix verify {tmp_path}/set`" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "set"), "--quiet"]) == 1
    assert "set.npy: sha256 is " in capsys.readouterr().err


# Advice that cannot be followed here (a download, 2^29 bytes, a concurrent process) or is tested elsewhere.
ELSEWHERE = (
    "to sort them as numbers, pass --classes",  # tests/datasets/test_class_folders.py
    "run `dali-mix verify",
    "'--classes' if given else",
    "--download fetches it",
    "make the image smaller (--resize",
    "or choose another --out",
    "--download is for cifar10",  # tests/cli/test_pack.py
    "leave --root out",  # tests/datasets/test_digit_scenes.py
    "leave --classes out",  # likewise
    "pack without --cluster",  # tests/service/test_packing.py
    "pack them without --cluster",  # tests/datasets/test_packer_machines.py
)


def test_every_option_in_a_message_has_a_case() -> None:
    """`CASES` or `ELSEWHERE` covers every message in datasets/ and recordio/ that names an option or a command."""
    advised = [case.advice for case in CASES]
    missing = []
    for path in sorted(path for room in ("datasets", "recordio") for path in (ROOT / "dali_mix" / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                text = "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | inside):
                text = node.value
            else:
                continue
            if not re.search(r"[a-z(;,] \(?`?--[a-z]|--[a-z-]+ [a-z]|`dali-mix", text) or "\n" in text:
                continue
            named = re.findall(r"(?:--[a-z]|`dali-mix)[^;,.()`:\0{]*", text)
            tried = any(piece.strip("` ") in one for piece in named for one in advised)
            if not tried and not any(one in text for one in ELSEWHERE):
                missing.append(f"{path.name}:{node.lineno}: {text[:110]!r}")
    assert not missing, "\n".join(missing)
