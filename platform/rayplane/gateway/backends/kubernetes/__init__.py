"""Compute from Kubernetes: a namespace for each team, a RayCluster (KubeRay) for each cluster.

api.py speaks to the API server, cache.py remembers what it said, and the modules of manifests (pods.py, raycluster.py,
place.py) are pure. Only this package knows Kubernetes.
"""
