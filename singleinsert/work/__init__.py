"""What batches and evaluations share: a queue of jobs on disk, and how a process stands alone beside others."""
