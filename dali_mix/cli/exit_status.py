"""Exit statuses of `dali-mix`. 0: success. 1: an error, explained by a message. 2: wrong usage. Others: see below."""

LOST = 3  # ended only because another rank has ended; lower than 75, since srun returns the highest status of its tasks
PREEMPTED = 75  # stopped by SIGTERM after saving a checkpoint, or before the first step
INTERRUPTED = 130  # by Ctrl-C; a run that was training has saved a checkpoint first, unless it was interrupted twice
