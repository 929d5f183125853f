"""`import dali_mix` provides the public names and loads no heavy modules, and its packages list their exports."""

import ast
import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import dali_mix

ROOT = Path(__file__).parents[2]
PACKAGES = [module.name for module in pkgutil.iter_modules(dali_mix.__path__) if module.ispkg] + ["pipelines", "tasks"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_package_exports_expected_names():
    assert {*dali_mix.__all__} == {
        "__version__", "Predictor", "Writer", "build_loader", "evaluate", "load_config", "pack", "train",
    }  # fmt: skip


def test_type_checking_imports_match_lazy_names():
    for package in ("dali_mix", "dali_mix.engine"):
        module = importlib.import_module(package)
        (block,) = (node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.If))
        assert ast.unparse(block.test) == "TYPE_CHECKING"
        shown = {}
        for node in block.body:
            assert isinstance(node, ast.ImportFrom)
            shown |= {name.asname: (node.module, name.name) for name in node.names}
        assert shown.keys() == (
            {*dir(module)} & {*module.__all__, *PACKAGES} if package == "dali_mix" else {*module.__all__}
        ) - {"__version__"}
        for name, (where, original) in shown.items():
            assert name == original
            if where != "dali_mix":
                assert getattr(importlib.import_module(where), name) is getattr(module, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_exports_are_unique_and_documented(package):
    module = importlib.import_module(f"dali_mix.{package}")
    assert module.__doc__ and sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isclass(exported) or inspect.isfunction(exported):
            written = vars(exported).get("__doc__") if inspect.isclass(exported) else exported.__doc__
            assert written and not written.startswith(f"{name}("), name  # not a dataclass's default docstring


def imported(source):
    """Yield (module, name) of each import, and of each `dali_mix.package.name`; the name of a plain import is None."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name) for name in node.names)
        elif isinstance(node, ast.Attribute):
            package, _, name = ast.unparse(node).removeprefix("dali_mix.").partition(".")
            if package in PACKAGES and name.isidentifier() and ast.unparse(node).startswith("dali_mix."):
                yield f"dali_mix.{package}", name


def private_imports(source):
    """Return the imports in a source text of names that are not in the `__all__` of a public package."""
    found = []
    for module, name in imported(source):
        if module.split(".")[0] != "dali_mix":
            continue
        package = module.removeprefix("dali_mix").removeprefix(".")
        known = package in ("", "pipelines.steps", *PACKAGES)
        if not known or (
            name and name not in {*importlib.import_module(module).__all__, *(PACKAGES if not package else ())}
        ):
            found.append(f"{module} {name}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_docs_import_only_public_names(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        assert private_imports(block) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_import_only_public_names(example):
    assert private_imports(example.read_text(encoding="utf-8")) == []


def test_private_imports_finds_private_names():
    assert private_imports("from dali_mix.engine.run import train") == ["dali_mix.engine.run train"]
    assert private_imports("import dali_mix\ndali_mix.mixers.base") == ["dali_mix.mixers base"]
    assert private_imports("from dali_mix.mixers import CutMix, masks") == ["dali_mix.mixers masks"]
    assert private_imports("from dali_mix import pipelines\nimport torch.nn\ndali_mix.train()") == []


MIXING = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

NAMES = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Forbidden())
import torch
from dali_mix.mixers import CutMix, Cutout, FreeFormMasks, MixChoice, MixUp, ResizeMix, SaliencyMix, SpliceMix, mask_out

images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
choice = MixChoice([CutMix(8), MixUp(8)], [0.5, 0.5])
saliency = SaliencyMix(8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
for mixer in (CutMix(8), ResizeMix(8), saliency, MixUp(8), Cutout(8), choice):
    mixed, targets = mixer(images, labels, torch.Generator().manual_seed(0))
    assert mixed.shape == images.shape
    print(type(mixer).__name__, not torch.equal(mixed, images))
print("SpliceMix", len(SpliceMix()(images, torch.eye(8))[0]) > 8)
masks = FreeFormMasks()
print("Masks", bool(masks.masks(masks.sample(8, 32, 32)).any()))
loaded = sorted(NAMES & {name.partition(".")[0] for name in sys.modules})
print("loaded", loaded)
"""
MODULES = {
    "pillow": "PIL",
    "opencv-python": "cv2",
    "nvidia-dali-cuda120": "nvidia",
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
}


def test_mixers_need_only_torch_numpy_and_numba():
    required = runpy.run_path(str(ROOT / ".ci/floors.py"))["requirements"]((ROOT / "setup.py").read_text("utf-8"))
    names = {line.partition(">=")[0] for line in required}
    assert {"torch", "numpy", "numba", "kornia", "timm"} <= names
    forbidden = [MODULES.get(name, name) for name in names - {"torch", "numpy", "numba"}]
    command = [sys.executable, "-c", MIXING, ",".join(forbidden)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1] == "loaded []" and len(lines) == 9
    assert all(line.endswith(" True") for line in lines[:-1]), ended.stdout


def test_version_is_defined_once():
    text = (ROOT / "setup.py").read_text("utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+", dali_mix.__version__) and f'"{dali_mix.__version__}"' not in text
    assert "_version.py" in text and importlib.import_module("dali_mix._version").__version__ is dali_mix.__version__


def test_dir_lists_packages_and_exports():
    shown = dir(dali_mix)
    assert {*PACKAGES, *dali_mix.__all__} <= {*shown}
    assert [name for name in shown if name.startswith("_") and not name.startswith("__")] == []
    for name in shown:
        assert getattr(dali_mix, name) is not None, name


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_attributes(package):
    code = f"import dali_mix; print(dali_mix.{package}.__name__)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == f"dali_mix.{package}", ended.stderr
    assert inspect.ismodule(importlib.import_module(f"dali_mix.{package}"))


def test_import_and_dir_load_no_heavy_modules():
    loaded = "[name for name in ('torch', 'numpy', 'nvidia.dali', 'timm') if name in sys.modules]"
    code = f"import dali_mix, sys; dir(dali_mix); print({loaded})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["mixer", "buildloader", "Loader", "_ROOM"])
def test_unknown_attributes_raise(name):
    with pytest.raises(AttributeError, match=f"module 'dali_mix' has no attribute '{name}'"):
        getattr(dali_mix, name)
