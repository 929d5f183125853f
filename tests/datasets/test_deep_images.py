"""Images of 16 bits a pixel, encoded anew."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dali_mix.datasets import Transform


@pytest.mark.parametrize("brightest", [200, 4000, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_their_upper_eight_also_in_dark_images(kind: str, brightest: int) -> None:
    gray = np.linspace(0, brightest, 600).reshape(20, 30).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, kind)
    data, header, reencoded = Transform(encoding="raw", decode=True)(file.getvalue())
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert reencoded and (header.height, header.width) == (20, 30)
    assert np.array_equal(found, np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
