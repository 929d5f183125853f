"""Building blocks of mixers: boxes, pasting, blending, saliency, targets and random draws."""
