"""Fused ending of a graph compared with a matrix product in float64 and with DALI's operators."""

import os
import subprocess
import sys

import numpy as np
import pytest
from dali_mix.pipelines import Pipeline, SampleRandom
from dali_mix.pipelines.kernels import fused, resample
from dali_mix.pipelines.steps.color import Color
from dali_mix.pipelines.steps.geometry import CentreCrop, Flip, Resize
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def, types

from dali_mix import caches
from dali_mix import compiled as compiling

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [  # (input size, output size)
    ((1, 1), (5, 7)),
    ((1, 9), (3, 4)),
    ((2, 2), (33, 48)),
    ((9, 1), (16, 17)),
    ((90, 61), (32, 64)),  # shrinking
    ((31, 45), (64, 47)),  # enlarging
    ((37, 401), (64, 96)),  # shrinking along one axis and enlarging along the other
    ((300, 20), (7, 40)),
    ((48, 48), (48, 48)),  # unchanged
]


def matrix(n_in: int, n_out: int, antialias: bool) -> np.ndarray:
    """Return linear interpolation along an axis as a matrix (n_out, n_in), a triangle around each output's centre."""
    step = n_in / n_out
    radius = max(1.0, step) if antialias else 1.0
    weights = np.zeros((n_out, n_in))
    for o in range(n_out):
        center = (o + 0.5) * step - 0.5
        taps = np.arange(np.floor(center - radius), np.ceil(center + radius) + 1)
        height = np.maximum(0, 1 - np.abs(taps - center) / radius)
        np.add.at(weights[o], np.clip(taps, 0, n_in - 1).astype(int), height / height.sum())
    return weights


def resized(image: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    down, across = (matrix(a, b, antialias) for a, b in zip(image.shape, size, strict=False))
    return np.einsum("yh,hwc,xw->cyx", down, image.astype(np.float64), across)


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return random black and white pixels, with the largest possible differences between neighbours."""
    return np.random.default_rng(seed).integers(0, 2, (*shape, 3)).astype(np.uint8) * 255


def run_kernel(
    image: np.ndarray,
    size: tuple[int, int],
    flip: bool,
    antialias: bool,
    crop: tuple[int, ...] = (0,) * 6,
    window: tuple[int, ...] = (0,) * 4,
) -> np.ndarray:
    """Return the kernel's uint8 image.

    Check that its float32 image equals the uint8 image, scaled and shifted, at two memory offsets.
    """
    window = np.array(window, np.int32)
    crop = np.array(crop if len(crop) == 6 else (*crop, *size), np.int32)
    scale, shift = np.array([0.017, 2, 4], np.float32), np.array([-2.1, 10.3, -1000], np.float32)
    levels = np.full((3, *size), 77, np.uint8)
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    resample.resize_flip(image, levels, window, crop, flip, antialias, one, zero)
    product = levels * scale[:, None, None]
    for offset in (0, 4):
        numbers = floats_at(size, offset)
        resample.resize_flip(image, numbers, window, crop, flip, antialias, scale, shift)
        np.testing.assert_array_equal(numbers, product + shift[:, None, None])
    return levels


def floats_at(size: tuple[int, int], offset: int) -> np.ndarray:
    """Return a float32 array (3, *size) of NaN that starts `offset` bytes past a multiple of 64.

    Only writes at multiples of 64 may bypass the caches.
    """
    count = 3 * size[0] * size[1]
    memory = np.full(count + 32, np.nan, np.float32)
    start = (offset - memory.ctypes.data) % 64 // 4
    return memory[start : start + count].reshape(3, *size)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_kernel_matches_matrix_product(shape, size, antialias):
    image = noise(shape)
    expected = resized(image, size, antialias)
    for flip in (False, True):
        wanted = expected[:, :, ::-1] if flip else expected
        assert np.abs(run_kernel(image, size, flip, antialias) - wanted).max() < 0.53


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    antialias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_kernel_matches_matrix_product_at_any_size(shape, size, antialias, seed):
    image = noise(shape, seed)
    error = run_kernel(image, size, True, antialias) - resized(image, size, antialias)[:, :, ::-1]
    assert np.abs(error).max() < 0.53


def test_kernel_rounds_to_nearest_level():
    """Nearly all errors are at most half a level, and they are unbiased."""
    image = np.random.default_rng(1).integers(0, 256, (301, 277, 3), dtype=np.uint8)
    error = run_kernel(image, (224, 224), False, True) - resized(image, (224, 224), True)
    assert (np.abs(error) > 0.5).mean() < 0.02 and abs(error.mean()) < 0.003


@pytest.mark.parametrize("crop", [(40, 71, 0, 0), (40, 71, 8, 24), (40, 71, 3, 11), (32, 47, 0, 0), (150, 90, 77, 41)])
@pytest.mark.parametrize("shape", [(90, 161), (31, 45), (7, 300)])
def test_cropped_kernel_matches_matrix_product(shape, crop):
    image, (tall, wide, top, left) = noise(shape), crop
    expected = resized(image, (tall, wide), True)[:, top : top + 32, left : left + 47]
    assert np.abs(run_kernel(image, (32, 47), False, True, crop) - expected).max() < 0.53
    assert np.abs(run_kernel(image, (32, 47), True, True, crop) - expected[:, :, ::-1]).max() < 0.53


@pytest.mark.parametrize("canvas", [(40, 64), (40, 63)])
@pytest.mark.parametrize("size", [(32, 48), (32, 47)])
def test_kernel_pads_with_zeros(canvas, size):
    """Writes bypass the caches only if the rows of image and canvas consist of complete blocks."""
    image, whole = noise((90, 161)), np.zeros(4, np.int32)
    scale, shift = np.array([0.017, 2, 4], np.float32), np.array([-2.1, 10.3, -1000], np.float32)
    own, padded = floats_at(size, 4), floats_at(canvas, 0)
    for out, crop in ((own, (0,) * 6), (padded, (*size, 0, 0, *size))):
        resample.resize_flip(image, out, whole, np.array(crop, np.int32), False, True, scale, shift)
    np.testing.assert_array_equal(padded[:, : size[0], : size[1]], own)
    assert not padded[:, size[0] :].any() and not padded[:, :, size[1] :].any()


@pytest.mark.parametrize(
    "window", [(0, 0, 90, 161), (13, 27, 60, 100), (89, 0, 1, 161), (5, 150, 80, 11), (3, 4, 1, 1)]
)
def test_kernel_resizes_a_window(window):
    """The window is resized like a separate image; the pixels around it have no effect."""
    image, (top, left, height, width) = noise((90, 161)), window
    own = np.ascontiguousarray(image[top : top + height, left : left + width])
    for size in ((32, 48), (32, 47)):
        for flip in (False, True):
            found = run_kernel(image, size, flip, True, window=window)
            np.testing.assert_array_equal(found, run_kernel(own, size, flip, True))


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_flat_image_stays_exactly_flat(level):
    image = np.full((51, 83, 3), level, np.uint8)
    assert (run_kernel(image, (40, 56), False, True) == level).all()


CPUS = {
    "native": {},
    "without FMA and AVX": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


def test_all_cpus_give_identical_bits(tmp_path):
    """Code that numba compiles for a CPU with fewer instructions gives the same bits. Its cache separates CPU types."""
    code = (
        "import hashlib, numpy as np\n"
        "from dali_mix.pipelines.kernels import resample\n"
        "rng, found = np.random.default_rng(0), hashlib.sha256()\n"
        "for number in range(40):\n"
        "    height, width, tall, wide = rng.integers(1, 400, 4)\n"
        "    wide = (wide + 15) // 16 * 16 if number % 2 else wide  # rows whose writes may bypass the caches\n"
        "    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)\n"
        "    for kind in (np.uint8, np.float32):\n"
        "        memory = np.empty(3 * tall * wide + 64, kind)\n"
        "        start = -memory.ctypes.data % 64 // memory.itemsize\n"
        "        out = memory[start : start + 3 * tall * wide].reshape(3, tall, wide)\n"
        "        window, crop = np.zeros(4, np.int32), np.zeros(6, np.int32)\n"
        "        scale, shift = np.array([[0.017, 0.018, 0.019], [-2.1, -2, -1.8]], np.float32)\n"
        "        if kind is np.uint8: scale, shift = np.ones(3, np.float32), np.zeros(3, np.float32)\n"
        "        resample.resize_flip(\n"
        "            image, out, window, crop, number % 2 == 0, number % 3 > 0, scale, shift)\n"
        "        found.update(out.tobytes())\n"
        "print(found.hexdigest())\n"
    )
    found = {}
    for name, settings_ in CPUS.items():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **settings_}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
        found[name] = result.stdout
    assert len(set(found.values())) == 1, found


def images_of_sizes(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (*rng.integers(1, 130, 2), 3), dtype=np.uint8) for _ in range(count)]


def ending(step, draws, image, mirror=None):
    """Build the end of a pipeline's graph on a CPU: one step and a flip."""
    pipeline = Pipeline(train=True, image_size=step.size, mean=MEAN, std=STD, steps=[step])
    return pipeline.finish(image, [(step, draws)], mirror, None, "cpu")


@pytest.mark.parametrize(
    ("steps", "device", "takes"),
    [
        ([Resize(32)], "cpu", True),
        ([Color(0.4, 0.0), Resize((32, 32), antialias=False)], "cpu", True),
        ([Resize((32, 32))], "gpu", False),
        ([Resize((32, 32), fuse=False)], "cpu", False),
        ([Resize((32, 32), "linear", "cubic")], "cpu", False),
        ([Resize((32, 32), "triangular", "linear")], "cpu", False),
        ([Resize((32, 32)), Color(0.4, 0.0)], "cpu", False),
        ([Resize((32, 32)), Flip()], "cpu", False),  # a pipeline removes the flip first
        ([], "cpu", False),
    ],
)
@pytest.mark.parametrize("of_known_size", [True, False])
def test_fusable_endings_are_recognized(steps, device, takes, of_known_size):
    found = fused.ending([(step, {}) for step in steps], device, of_known_size)
    assert found == ((1, {"antialias": steps[-1].antialias}) if takes else (0, {}))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(48, 64), (33, 31)])
def test_graph_matches_dali_operators(size, antialias):
    """Both agree except for rounding near .5; every sample has its own size and flip."""
    images, flips = images_of_sizes(24), np.arange(24, dtype=np.int32) % 2

    @pipeline_def(batch_size=24, num_threads=2, device_id=None)
    def graph():
        image = fn.external_source(lambda: images, batch=True, dtype=types.UINT8, ndim=3)
        mirror = fn.external_source(lambda: flips, batch=True, dtype=types.INT32, ndim=0)
        ours, stock = (
            ending(Resize(size, antialias=antialias, fuse=fuse), {}, image, mirror) for fuse in (True, False)
        )
        canvas = types.Constant(np.empty((*size, 0), np.uint8), device="cpu")
        still = fused.resize_flip(image, canvas, antialias=antialias)
        return ours, stock, still

    outputs = graph().run()
    assert outputs[0].layout() == outputs[1].layout() == "CHW"
    ours, stock, still = (np.array(output.as_tensor()) for output in outputs)
    assert ours.shape == (24, 3, *size) and ours.dtype == stock.dtype == np.uint8
    assert_near(ours, stock)
    np.testing.assert_array_equal(still[::2], ours[::2])
    np.testing.assert_array_equal(still[1::2, :, :, ::-1], ours[1::2])


def assert_near(ours: np.ndarray, stock: np.ndarray) -> None:
    difference = np.abs(ours.astype(int) - stock)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("target", [(48, 64), (36, 33), (33, 31)])  # the last needs no crop along one axis
def test_centre_crop_matches_dali_operators(target, antialias):
    images, size = images_of_sizes(40), (33, 31)
    steps = [CentreCrop(size, 1.0, "linear", "linear", antialias, fuse) for fuse in (True, False)]
    for step in steps:
        step.covered = target
    drawn = steps[0].draw(np.array([image.shape[:2] for image in images]), SampleRandom(0, 0, np.arange(40)))

    def feed(values):
        return fn.external_source(lambda: values, batch=True)

    @pipeline_def(batch_size=40, num_threads=2, device_id=None)
    def graph():
        image = fn.external_source(lambda: images, batch=True, dtype=types.UINT8, ndim=3)
        draws = {name: feed(values) for name, values in drawn.items()}
        return tuple(ending(step, draws, image) for step in steps)

    ours, stock = (np.array(output.as_tensor()) for output in graph().run())
    assert ours.shape == (40, 3, *size)
    assert_near(ours, stock)


def test_fused_is_unavailable_without_compilation():
    code = (
        "import sys\n"
        "from dali_mix.pipelines.kernels import fused\n"
        "print(fused.available(), 'dali_mix.pipelines.kernels.resample' in sys.modules)"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_compiles_without_writable_cache(monkeypatch):
    """numba raises RuntimeError if neither the folder of the file nor the user's cache folder is writable."""
    compiled = []

    def cfunc(signature, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: compiled.append((signature, function)) or "compiled"

    monkeypatch.setattr(caches, "fallback", lambda: None)
    assert compiling.compiled(cfunc, resample.RUN_SIGNATURE)(len) == "compiled"
    assert compiled == [(resample.RUN_SIGNATURE, len)]


def test_unavailable_if_plugin_signature_differs(monkeypatch):
    from nvidia.dali.plugin import numba as plugin

    assert fused.available()
    monkeypatch.setattr(plugin.NumbaFunction, "_run_fn_sig", lambda self: resample.SETUP_SIGNATURE)
    assert not fused.available.__wrapped__()
