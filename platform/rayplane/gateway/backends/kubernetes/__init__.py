"""The backend `kubernetes`: clusters as RayClusters of KubeRay. Only these modules import lightkube."""
