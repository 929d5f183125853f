"""A pipeline that crashes its process when it draws for one record."""

import os

from dali_mix.pipelines.imagenet import ImageNet

HEIGHT = 93  # identifies the record


class Crash(ImageNet):
    def draw_from_boxes(self, rows, random, boxes):
        if len(rows) > 1 and (rows["height"] == HEIGHT).any():
            os.abort()
        return super().draw_from_boxes(rows, random, boxes)
