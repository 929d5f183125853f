"""`import dali_mix`: what it shows, and that it costs nothing until it is used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import dali_mix

ROOMS = [module.name for module in pkgutil.iter_modules(dali_mix.__path__) if module.ispkg] + ["pipelines"]


def test_dir_shows_every_room():
    shown = dir(dali_mix)
    assert {*ROOMS, *dali_mix.__all__} <= {*shown}
    assert [name for name in shown if name.startswith("_") and not name.startswith("__")] == []
    for name in shown:
        assert getattr(dali_mix, name) is not None, name


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_attributes(room):
    code = f"import dali_mix; print(dali_mix.{room}.__name__)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == f"dali_mix.{room}", ended.stderr
    assert inspect.ismodule(importlib.import_module(f"dali_mix.{room}"))


def test_importing_and_listing_brings_nothing_heavy():
    loaded = "[name for name in ('torch', 'numpy', 'nvidia.dali', 'timm') if name in sys.modules]"
    code = f"import dali_mix, sys; dir(dali_mix); print({loaded})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["mixer", "buildloader", "Loader", "_ROOM"])
def test_other_names_are_errors(name):
    with pytest.raises(AttributeError, match=f"module 'dali_mix' has no attribute '{name}'"):
        getattr(dali_mix, name)
