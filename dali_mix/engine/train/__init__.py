"""The training loop and its parts: objectives, optimizers, schedules, EMA, and what a run must remember."""
