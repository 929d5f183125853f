"""The operations that mixers are made of: boxes, pasting, blending, saliency, targets and random draws."""
