"""A third party's plug-ins, one module for each family."""
