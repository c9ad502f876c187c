"""Compute from Kubernetes: a namespace for each team, a RayCluster (KubeRay) for each cluster.

api.py calls the API server, cache.py keeps its objects current by watches, and the modules that render manifests
(pods.py, raycluster.py, rayjob.py, rayservice.py, team.py) are pure. No other package knows Kubernetes.
"""
