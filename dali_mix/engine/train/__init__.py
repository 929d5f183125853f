"""The training loop and its parts: objectives, optimizers, schedules, EMA, and the state of a run."""
