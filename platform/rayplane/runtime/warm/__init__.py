"""Warm processes of one node: its Python processes are forked from an interpreter that has imported common libraries.

Ray starts a Python process for each worker, each job's supervisor and each entrypoint, and each imports the same
libraries again. Here ``head`` starts Ray with ``shim`` as its Python. The shim asks ``zygote``, the warm interpreter,
to fork a child; ``child`` makes that child run the command. ``rules`` tell which commands a fork can't run exactly as a
new interpreter would; for these the shim starts a new interpreter, here called a plain start. Linux only; imports
nothing else of rayplane.
"""
