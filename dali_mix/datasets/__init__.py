"""Dataset layouts, one per file, and the parallel packer that turns files on disk into a packed set.

`find_layout(name)` returns a bundled layout, or one that an installed package registers as an entry point in the group
"dali_mix.datasets" (name = "module:function").
"""

from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Layout, Listing, Options
from dali_mix.datasets.images.transform import Transform
from dali_mix.datasets.packer import PackOptions, pack_listing
from dali_mix.datasets.packing import ENTRY_POINT_GROUP, LAYOUTS, find_layout, layout_names, pack
from dali_mix.datasets.writer import Writer

__all__ = [
    "ENTRY_POINT_GROUP",
    "LAYOUTS",
    "Layout",
    "Listing",
    "Options",
    "PackOptions",
    "Transform",
    "Writer",
    "find_layout",
    "layout_names",
    "open_tree",
    "pack",
    "pack_listing",
]
