"""Code for the user's machine: the SDK, the command line, and the local platform (`rayplane up`)."""
