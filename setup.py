"""Packaging of dali_mix; `pipelines/` is installed as the package `dali_mix.pipelines`."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="dali_mix",
    version=runpy.run_path(str(HERE / "dali_mix" / "_version.py"))["__version__"],
    description="Pack images once, feed GPUs through NVIDIA DALI, mix them there, pretrain and transfer.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The dali_mix authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"dali_mix": "dali_mix", "dali_mix.pipelines": "pipelines"},
    packages=[
        *find_packages(include=["dali_mix", "dali_mix.*"]),
        "dali_mix.pipelines",
        *(f"dali_mix.pipelines.{name}" for name in find_packages("pipelines")),
    ],
    package_data={"dali_mix": ["py.typed"]},
    # The lowest versions with which the tests pass: `make test-lowest` installs exactly these (CONTRIBUTING.md).
    install_requires=[
        "torch>=2.9.0",
        "torchvision>=0.24.0",
        "nvidia-dali-cuda120>=2.4.0",
        "mmengine>=0.10.7",
        "numpy>=1.26.0",
        "kornia>=0.9.0",
        "timm>=1.0.30",
        "opencv-python>=4.8.0.74",
        "packaging>=24.0",
        "pillow>=10.3.0",
        "pyyaml>=6.0.1",
        "safetensors>=0.5.0",
        "scikit-learn>=1.4.0",
        "scipy>=1.11.0",
        "matplotlib>=3.8.0",
        "tqdm>=4.66.0",
        "numba>=0.61.0",
    ],
    extras_require={
        # `dali-mix embed-labels --from bert`
        "bert": ["transformers>=4.56.0"],
        # COCO metrics: `metrics=dict(protocol="coco")`
        "detection": ["pycocotools>=2.0.8"],
        # `dali-mix serve`, `build_loader(workers=...)`
        "service": ["ray>=2.52.0"],
        "vis": ["tensorboard>=2.20.0"],
        "dev": [
            "hypothesis>=6.100.0",
            "import-linter>=2.1",
            "mypy>=1.15.0",
            "pycocotools>=2.0.8",
            "pytest>=8.2.0",
            "pytest-timeout>=2.3.1",
            "pytest-xdist>=3.6.0",
            "ruff>=0.11.0",
        ],
        # The site (`make docs`) and its pictures (`make pictures`)
        "docs": ["mkdocs-material>=9.8.2", "mkdocstrings-python>=2.0.11", "scikit-image>=0.26.0"],
    },
    entry_points={
        "console_scripts": ["dali-mix = dali_mix.cli.main:main"],
        # Groups in which other packages register pipelines and steps: NAME = module:Class.
        "dali_mix.pipelines": [],
        "dali_mix.pipeline_steps": [],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
