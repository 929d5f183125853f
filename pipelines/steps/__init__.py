"""Steps of pipelines: crop windows, colors and automatic augmentation."""
