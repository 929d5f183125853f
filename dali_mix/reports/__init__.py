"""Pictures and charts of data and runs, as PNG files."""

from dali_mix import caches

caches.for_matplotlib()

from dali_mix.reports.attention import attention  # noqa: E402  matplotlib reads MPLCONFIGDIR when it is imported
from dali_mix.reports.boxes import Drawings  # noqa: E402
from dali_mix.reports.curves import curves  # noqa: E402
from dali_mix.reports.evaluation import evaluation_report  # noqa: E402
from dali_mix.reports.gallery import gallery  # noqa: E402
from dali_mix.reports.profile import profile  # noqa: E402

__all__ = ["Drawings", "attention", "curves", "evaluation_report", "gallery", "profile"]
