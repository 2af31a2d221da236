"""What tests know of a running cluster, and how they talk to it."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..processes import wait_until
from .api import Api, ApiError
from .cgroups import InstanceCgroups
from .kubeconfigs import write_kubeconfig
from .packages import SEARCH_PATH
from .places import NODE, Places

T = TypeVar("T")

TOKEN_SECONDS = 24 * 3600


class CommandFailedError(RuntimeError):
    """kubectl ended with another exit code than 0; has the command, code and stderr."""


class Clients:
    """The half of `KubernetesSystem` that asks; it is of use while the system runs."""

    def __init__(self) -> None:
        self._places: Places | None = None
        self._cgroups: InstanceCgroups | None = None
        self._api: Api | None = None

    # ---- what tests need to know

    @property
    def running(self) -> bool:
        """Whether it has been started, and not yet stopped."""
        return self._places is not None

    @property
    def places(self) -> Places:
        """Paths and addresses of the running system.

        Raises:
            RuntimeError: It does not run.
        """
        if self._places is None:
            message = "this Kubernetes system does not run"
            raise RuntimeError(message)
        return self._places

    @property
    def run_folder(self) -> Path:
        """Everything of this instance."""
        return self.places.folder

    @property
    def api_url(self) -> str:
        """The API server's address, which this machine and pods can reach."""
        return self.places.api_url

    @property
    def ca(self) -> Path:
        """The certificate of the authority that the API server's certificate is from."""
        return self.places.certificates / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig (owner root, 0600)."""
        return self.places.kubeconfigs / "admin.yaml"

    @property
    def host_address(self) -> str:
        """This machine's address towards pods: a hub that listens there is reached by them."""
        return str(self.places.addresses.host)

    @property
    def node(self) -> str:
        """The name of the node that runs pods."""
        return NODE

    # ---- clients

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        check: bool = True,
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as an administrator.

        Raises:
            CommandFailedError: It ended with another exit code than 0 (unless `check` is off).
            subprocess.TimeoutExpired: It took longer.
        """
        command = [str(self.places.kubernetes / "kubectl"), *arguments]
        variables = {
            "PATH": SEARCH_PATH,
            "HOME": str(self.run_folder),
            "KUBECONFIG": str(self.kubeconfig),
        }
        done = subprocess.run(
            command, input=input, stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=timeout_seconds,
            check=False, env=variables,
        )  # fmt: skip
        if check and done.returncode != 0:
            words = " ".join(arguments)[:500]
            message = f"kubectl {words} ended with {done.returncode}: {done.stderr[:1000]}"
            raise CommandFailedError(message)
        return done

    def request(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """Ask the API server as an administrator; see `Api.request`."""
        if self._api is None:
            message = "this Kubernetes system does not run"
            raise RuntimeError(message)
        return self._api.request(method, path, body, **options)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Have kubectl apply manifests.

        Raises:
            CommandFailedError: The API server refused one; has its words.
        """
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--filename=-", input=json.dumps(items))

    def make_namespace(
        self, name: str | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        """Make a namespace in which pods can be made at once; returns its name.

        Args:
            name: Its name; None for a new one.
            labels: Its labels, as for Pod Security.
        """
        name = name or f"test-{secrets.token_hex(4)}"
        meta = {"name": name, "labels": dict(labels or {})}
        self.request("POST", "/api/v1/namespaces", {"metadata": meta})
        self._wait_for_account(name)
        return name

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of a service account, which is made when absent.

        The token is valid for a day. The file is root's, 0600: give it to whom it is for.
        """
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if not self._exists(f"{accounts}/{name}"):
            self.request("POST", accounts, {"metadata": {"name": name}})
        asked = {"spec": {"expirationSeconds": TOKEN_SECONDS}}
        answer = self.request("POST", f"{accounts}/{name}/token", asked)
        user = {"token": answer["status"]["token"]}
        file = f"{namespace}.{name}"
        return write_kubeconfig(self.places, file, user, namespace=namespace)

    def container_cgroup(self, namespace: str, pod: str) -> Path:
        """The cgroup of the first container of a running pod, where its memory is limited.

        Raises:
            FileNotFoundError: It has none (any more).
        """
        status = self.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"]
        # containerd://d9725b9869ba40db…
        container = status["containerStatuses"][0]["containerID"].rpartition("/")[2]
        assert self._cgroups is not None
        return self._cgroups.of_container(container)

    def extend_node(self, resources: Mapping[str, str]) -> None:
        """Have the node offer more resources, as device plugins would ({"nvidia.com/gpu": "2"})."""
        patch = [
            {"op": "add", "path": f"/status/capacity/{name.replace('/', '~1')}", "value": value}
            for name, value in resources.items()
        ]
        kind = "application/json-patch+json"
        self.request("PATCH", f"/api/v1/nodes/{NODE}/status", patch, content_type=kind)

    def wait_until(
        self, condition: Callable[[], T], deadline_seconds: float = 30, what: str = "the condition"
    ) -> T:
        """Wait until `condition` answers something true, and return that.

        Raises:
            NotReadyError: It did not within the deadline.
        """
        return wait_until(condition, deadline_seconds, what)

    def _wait_for_account(self, namespace: str, name: str = "default") -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        wait_until(lambda: self._exists(path), 30, f"service account {namespace}/{name}")

    def _exists(self, path: str) -> bool:
        try:
            self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True
