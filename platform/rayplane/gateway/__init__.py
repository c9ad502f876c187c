"""The control plane: the one process that admits users' requests and reconciles their objects."""
