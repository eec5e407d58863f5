"""Real kernels on an emulated machine, their work counted outside them."""
