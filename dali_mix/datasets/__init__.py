"""Dataset layouts, one a file, and the parallel packer: what lies on disk becomes a set of records."""

from dali_mix.datasets.base import Layout, Listing, Options
from dali_mix.datasets.cifar import cifar10, cifar100
from dali_mix.datasets.coco import coco
from dali_mix.datasets.digit_scenes import digit_scenes
from dali_mix.datasets.digits import digits
from dali_mix.datasets.imagefolder import imagefolder
from dali_mix.datasets.imagenet_val import imagenet_val
from dali_mix.datasets.images import Transform
from dali_mix.datasets.listfile import list_file
from dali_mix.datasets.nus_wide import nus_wide
from dali_mix.datasets.packer import PackOptions, pack
from dali_mix.datasets.tiny_imagenet import tiny_imagenet
from dali_mix.datasets.vg500 import vg500
from dali_mix.datasets.voc import voc
from dali_mix.datasets.wider import wider

LAYOUTS: dict[str, Layout] = {
    "imagefolder": imagefolder,
    "imagenet-val": imagenet_val,
    "tiny-imagenet": tiny_imagenet,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "voc": voc,
    "coco": coco,
    "nus-wide": nus_wide,
    "vg500": vg500,
    "wider": wider,
    "list": list_file,
    "digits": digits,
    "digit-scenes": digit_scenes,
}

__all__ = ["LAYOUTS", "Listing", "Options", "PackOptions", "Transform", "pack"]
