"""Clusters on Kubernetes, made by KubeRay's operator from what this adapter applies."""
