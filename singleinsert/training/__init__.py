"""Training: a step, the loop, stages as data, checkpoints, samples. ``run.train`` is the whole of it."""
