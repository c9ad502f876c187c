"""The Kubernetes test bed: a real API server, the real KubeRay operator, and fake (level A) or real (level B) nodes.

Nothing here tests rayplane; it makes what the tests and benchmarks talk to, and takes all of it down.
"""
