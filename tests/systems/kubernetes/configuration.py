"""The configuration files of one instance. Pure: they are given their paths and addresses."""

from __future__ import annotations

import json
from pathlib import Path

from .places import KUBELET_PORT, Places

PAUSE_IMAGE = "qhub.test/pause:1"
UNUSED_PLUGINS = """disabled_plugins = ["io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing"{more}]"""
# What the kubelet would set for the whole machine, and the value that it wants to see there.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def containerd_toml_for_import(root: Path, state: Path, address: Path) -> str:
    """A containerd that only keeps images."""
    return f"""\
version = 2
root = "{root}"
state = "{state}/state"
{UNUSED_PLUGINS.format(more=', "io.containerd.grpc.v1.cri"')}
[grpc]
  address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
"""


def containerd_toml(places: Places, cni_plugins: Path) -> str:
    """The container runtime.

    `restrict_oom_score_adj`: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj, and dies.
    `disable_apparmor`: a profile would be loaded into the kernel, and stay there.
    """
    return f"""\
version = 2
root = "{places.containerd_root}"
state = "/run/containerd"
oom_score = 0
{UNUSED_PLUGINS.format(more="")}
[grpc]
  address = "{places.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{places.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{places.configuration}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni_conflist(places: Places) -> str:
    """The pods' network: a cable from each pod to the node, which routes.

    So every packet between two pods passes kube-proxy's rules, on kernels with and without
    br_netfilter.
    """
    addresses = places.addresses
    pool = {
        "subnet": str(addresses.pods),
        "rangeStart": str(addresses.pods[10]),
        "gateway": str(addresses.node),
    }
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[pool]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return _json({"cniVersion": "0.4.0", "name": "qhub", "plugins": plugins})


def kubelet_config(places: Places) -> str:
    """The kubelet: the defaults, but for paths, limits of the machine's disk and many pods."""
    folder = places.folder
    address = str(places.addresses.node)
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "port": KUBELET_PORT,
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(places.certificates / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(places.certificates / "kubelet.crt"),
            "tlsPrivateKeyFile": str(places.certificates / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{places.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{folder.name}",
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "resolvConf": str(places.configuration / "resolv.conf"),
            "clusterDNS": [str(places.addresses.dns)],
            "clusterDomain": "cluster.local",
            "volumePluginDir": str(folder / "volume-plugins"),
            "maxPods": 500,
            "serializeImagePulls": False,
            # the images are not to be had again, and the disk is not ours
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.inodesFree": "1%",
            },
            "shutdownGracePeriod": "0s",
            "logging": {"flushFrequency": "1s"},
        }
    )


def kube_proxy_config(places: Places) -> str:
    """kube-proxy: it leaves alone what is the whole machine's."""
    unset = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": str(places.addresses.pods),
            "bindAddress": str(places.addresses.node),
            "nodePortAddresses": ["primary"],
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": str(places.kubeconfigs / "kube-proxy.yaml")},
            "conntrack": unset,
            "oomScoreAdj": 0,
            "iptables": {"minSyncPeriod": "100ms"},
        }
    )


def dns_service(places: Places) -> dict[str, object]:
    """A name service with nothing behind it: pods that ask it are refused at once, and go on."""
    port = {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": str(places.addresses.dns), "ports": [port]},
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=1) + "\n"
