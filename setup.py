"""Packaging of dali_mix; `pipelines/` is installed as the package `dali_mix.pipelines`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="dali_mix",
    version="0.1.0",
    description="Pack images once, feed GPUs through NVIDIA DALI, mix them there, pretrain and transfer.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"dali_mix": "dali_mix", "dali_mix.pipelines": "pipelines"},
    packages=[*find_packages(include=["dali_mix", "dali_mix.*"]), "dali_mix.pipelines"],
    package_data={"dali_mix": ["py.typed"]},
    install_requires=[
        "torch>=2.8",
        "torchvision>=0.23",
        "nvidia-dali-cuda120>=2.4",
        "mmengine>=0.10.7",
        "numpy>=1.26",
        "kornia>=0.9",
        "timm>=1.0.15",
        "torchmetrics>=1.6",
        "opencv-python>=4.8",
        "pillow>=10.3",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "numba>=0.61",
    ],
    extras_require={
        # DALI built for CUDA 13. It shares its files with the CUDA 12 build: uninstall that one first.
        "cuda13": ["nvidia-dali-cuda130>=2.4"],
        # `dali-mix embed-labels --from bert`
        "bert": ["transformers>=4.46"],
        "vis": ["tensorboard>=2.16"],
        "dev": [
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "mypy>=1.15",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "ruff>=0.11",
        ],
    },
    entry_points={
        "console_scripts": ["dali-mix = dali_mix.cli.main:main"],
        # Third parties add pipelines of their own under this group: NAME = module:Class.
        "dali_mix.pipelines": [],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
