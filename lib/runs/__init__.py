"""One job, one process: attempts, their kernels, and the registry of runs."""
