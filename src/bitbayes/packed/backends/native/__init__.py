"""The native backend, which runs packed networks with kernels in C."""
