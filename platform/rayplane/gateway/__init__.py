"""The control plane: one process that decides."""
