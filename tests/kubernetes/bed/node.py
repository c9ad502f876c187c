"""A node's programs: containerd, kubelet, kube-proxy and a DNS; their settings and command lines. It starts nothing."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.kubernetes.bed import image
from tests.kubernetes.bed.components import Component
from tests.kubernetes.bed.machine import ADDRESS, CGROUP

NAME = "bed-node"
PODS = "10.98.0.0/16"
"""Addresses of pods; the host reaches them."""
DOMAIN = "cluster.local"

_METRICS, _KUBELET_HEALTH, _PROXY_HEALTH, _DNS_READY = 1338, 10248, 10256, 8181


def containerd(tools: dict[str, Path], folder: Path, enter: list[str]) -> Component:
    """The container runtime. Its files are where it expects them: the machine has its own /run and /var/lib."""
    network = {
        "cniVersion": "1.0.0",
        "name": "bed",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
            }
        ],
    }
    networks = folder / "networks"
    networks.mkdir()
    (networks / "10-bed.conflist").write_text(json.dumps(network))
    settings = folder / "containerd.toml"
    settings.write_text(f"""
version = 3
[metrics]
  address = "{ADDRESS}:{_METRICS}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{image.PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  # Else runc fails with "can't get final child's PID from pipe" where lowering a score is not allowed.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{tools["bridge"].parent}"]
    conf_dir = "{networks}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{tools["runc"]}"
""")
    argv = [str(tools["containerd"]), f"--config={settings}"]
    return Component(
        "containerd",
        argv,
        f"http://{ADDRESS}:{_METRICS}/v1/metrics",
        prefix=enter,
        env={"PATH": f"{tools['containerd-shim-runc-v2'].parent}:/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def kubelet(tools: dict[str, Path], folder: Path, keys: Path, kubeconfig: Path, enter: list[str]) -> Component:
    """The kubelet. Its pods live in the machine's cgroup, under either version of cgroups."""
    resolv = folder / "empty-resolv.conf"
    resolv.write_text("")
    settings = folder / "kubelet.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": ADDRESS,
                "healthzBindAddress": ADDRESS,
                "healthzPort": _KUBELET_HEALTH,
                "tlsCertFile": f"{keys}/kubelet.crt",
                "tlsPrivateKeyFile": f"{keys}/kubelet.key",
                "authentication": {"x509": {"clientCAFile": f"{keys}/ca.crt"}, "anonymous": {"enabled": False}},
                "authorization": {"mode": "Webhook"},
                "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": f"/{CGROUP}",
                "failCgroupV1": False,
                "failSwapOn": False,
                "clusterDNS": [ADDRESS],
                "clusterDomain": DOMAIN,
                "resolvConf": str(resolv),
                "makeIPTablesUtilChains": False,
                "serializeImagePulls": False,
                # It shares its disk with whatever else the host does.
                "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "maxPods": 100,
                "oomScoreAdj": 0,
            }
        )
    )
    argv = [
        str(tools["kubelet"]),
        f"--config={settings}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NAME}",
        f"--node-ip={ADDRESS}",
    ]
    return Component("kubelet", argv, f"http://{ADDRESS}:{_KUBELET_HEALTH}/healthz", prefix=enter)


def proxy(tools: dict[str, Path], folder: Path, kubeconfig: Path, enter: list[str]) -> Component:
    """kube-proxy, which routes addresses of Services to pods."""
    settings = folder / "proxy.yaml"
    timeouts = {f"{kind}Timeout": "0s" for kind in ("tcpEstablished", "tcpCloseWait", "udp", "udpStream")}
    settings.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clientConnection": {"kubeconfig": str(kubeconfig)},
                "hostnameOverride": NAME,
                "bindAddress": ADDRESS,
                "healthzBindAddress": f"{ADDRESS}:{_PROXY_HEALTH}",
                "metricsBindAddress": f"{ADDRESS}:10249",
                "clusterCIDR": PODS,
                # These belong to the host, not to a network namespace.
                "conntrack": {"min": 0, "maxPerCore": 0, **timeouts},
                # Pods are neighbours on a bridge: an answer must come back through the node to be translated.
                "nftables": {"masqueradeAll": True},
                "oomScoreAdj": 0,
            }
        )
    )
    argv = [str(tools["kube-proxy"]), f"--config={settings}"]
    path = f"{tools['nft'].parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    return Component("kube-proxy", argv, f"http://{ADDRESS}:{_PROXY_HEALTH}/healthz", prefix=enter, env={"PATH": path})


def dns(tools: dict[str, Path], folder: Path, kubeconfig: Path, enter: list[str]) -> Component:
    """The names of Services and pods, and no others."""
    corefile = folder / "Corefile"
    corefile.write_text(f""".:53 {{
  bind {ADDRESS}
  errors
  ready {ADDRESS}:{_DNS_READY}
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 2
  }}
}}
""")
    argv = [str(tools["coredns"]), f"-conf={corefile}"]
    return Component("coredns", argv, f"http://{ADDRESS}:{_DNS_READY}/ready", prefix=enter)


def with_its_dns(folder: Path) -> list[str]:
    """Command prefix for a program of the host, so that it resolves names as a pod does."""
    resolv = folder / "resolv.conf"
    resolv.write_text(f"nameserver {ADDRESS}\nsearch svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n")
    script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(resolv)]
