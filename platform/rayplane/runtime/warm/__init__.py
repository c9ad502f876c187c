"""Warm processes of one node: an interpreter that has imported the usual libraries forks what the node starts.

Ray starts a Python process for each worker, each job's supervisor and each entrypoint, and each imports the same
libraries anew. Here ``head`` starts Ray with ``shim`` as its Python; the shim asks ``zygote``, which forks a child, and
``child`` makes that child what the command wanted (``rules`` say when it must not). Whatever a fork can't do as a plain
start would, the shim does as a plain start. Linux only; imports nothing else of rayplane.
"""
