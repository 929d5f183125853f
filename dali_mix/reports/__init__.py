"""Pictures of data and runs, as PNG files."""

from dali_mix.reports.curves import curves
from dali_mix.reports.gallery import gallery

__all__ = ["curves", "gallery"]
