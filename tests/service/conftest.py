"""One pool for all tests in this folder: a head with two workers. This process is its client."""

import os
import shutil
from importlib.util import find_spec

import pytest

from dali_mix.recordio import RecordSet
from tests.loading.sets import png_set
from tests.service.serving import Serve, free_port


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return the folder for the settings and the token.

    It has session scope, because Ray reads a token only once per process, and pytest-xdist may run files of other
    packages between the files of this package.
    """
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="package")
def settings(folder):
    """Set the environment to use the folder for settings and token; yield the folder."""
    if find_spec("ray") is None:  # not imported, because the token does not exist yet
        pytest.skip("Ray is not installed")
    if shutil.disk_usage("/dev/shm").free < 1 << 30:
        pytest.skip("less than 1 GB of shared memory in /dev/shm")
    kept = dict(os.environ)
    os.environ |= {"XDG_CONFIG_HOME": str(folder), "DALI_MIX_SERVICE_TOKEN": str(folder / "token")}
    yield folder
    ray = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}  # Ray was imported with these
    os.environ.clear()
    os.environ |= kept | ray


@pytest.fixture(scope="package")
def head(settings):
    port, page = free_port(), free_port()
    serve = Serve(settings, "--workers", 2, "--port", port, "--dashboard", page)
    serve.address, serve.page = f"127.0.0.1:{port}", f"http://127.0.0.1:{page}"
    yield serve.ready()
    serve.stop()


@pytest.fixture(scope="package")
def pool(head):
    import dali_mix.service

    made = dali_mix.service.connect(head.address)
    yield made
    made.close()


@pytest.fixture(scope="package")
def records(tmp_path_factory):
    """Return a set of 1,300 PNGs."""
    return RecordSet(png_set(tmp_path_factory.mktemp("records") / "set", 1300, lambda n: (90 + n % 7, 80 + n % 11)))
