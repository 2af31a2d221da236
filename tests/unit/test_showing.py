"""`qhub-spawner show` and `manifests` about Kubernetes: what would be submitted, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qhub_spawner.commands import main
from qhub_spawner.hiding import hidden_text
from qhub_spawner.showing import as_yaml

PROFILES = """\
- slug: pod
  display_name: Pod
  memory: 600 MiB
  gpu: 1
  walltime: 1h
  environment:
    variables: {SECRET_NAME: secret-value}
  kubernetes: {image: "registry.example.org/lab:1", node_selector: {pool: gpu}}
- slug: both
  display_name: Both
  policy: POLICY
  slurm: {partition: general}
  kubernetes: {}
- slug: odd
  display_name: Odd
  kubernetes: {kubespawner: {no_such_trait: 1}}
"""
CONFIG = """
c.KubeSpawner.namespace = "people"
c.KubeSpawner.environment = {"TOKEN": "secret-value"}
c.KubeSpawner.extra_containers = [
    {"name": "beside", "image": "x", "env": [{"name": "KEY", "value": "secret-value"}]}
]
c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName": "homes"}}
c.SlurmSpawner.req_account = "project"
c.SlurmSpawner.req_prologue = "export API_TOKEN='secret-value'; module load lab"
c.KubeSpawner.lifecycle_hooks = {"postStart": {"exec": {"command": ["sh", "-c", "TOKEN=secret-value run"]}}}
c.KubeSpawner.args = ["--IdentityProvider.token=secret-value", "--password", "secret-value", "--debug"]
c.Spawner.cmd = ["/opt/lab/bin/jupyterhub-singleuser"]
print("said by the configuration")
"""
IDENTITY = {"version": 1, "uid": 1001, "gid": 1002, "gids": [1002, 3000], "home": "/home/alice"}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with profiles, a configuration and an identity."""
    (tmp_path / "profiles.yaml").write_text(PROFILES.replace("POLICY", "first"))
    (tmp_path / "jupyterhub_config.py").write_text(CONFIG)
    (tmp_path / "alice.json").write_text(json.dumps(IDENTITY))
    return tmp_path


def shown(files: Path, profile: str, *more: str) -> tuple[int, list[str]]:
    """Run the command."""
    arguments = [each.replace("FILES", str(files)) for each in more]
    return main(["show", str(files / "profiles.yaml"), profile, "--user=alice", *arguments])


def read(text: str) -> list[Any]:
    """Read YAML as Kubernetes would."""
    return list(YAML(typ="safe").load_all(text))


def test_show_a_pod(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pod as Kubernetes would get it, made where no cluster is known."""
    assert shown(files, "pod") == 0
    out = capsys.readouterr().out
    (pod,) = read(out)
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert pod["kind"] == "Pod"
    assert pod["metadata"]["name"] == "jupyter-alice"
    assert container["image"] == "registry.example.org/lab:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["activeDeadlineSeconds"] == 3600
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert "in the namespace default" in out


def test_show_a_pod_hides_values(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No value of a variable is shown that somebody configured, in any container."""
    assert shown(files, "pod", "--config=FILES/jupyterhub_config.py") == 0
    out = capsys.readouterr().out
    (pod,) = read(out)
    assert "secret-value" not in out
    variables = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    assert variables["SECRET_NAME"] == variables["TOKEN"] == "(not shown)"
    assert variables["JUPYTERHUB_API_TOKEN"] == "(not shown)"
    assert variables["JUPYTERHUB_USER"] == "alice"
    container = pod["spec"]["containers"][0]
    assert container["lifecycle"]["postStart"]["exec"]["command"][2] == "TOKEN=(not shown) run"
    assert container["args"][1:] == [
        *("--IdentityProvider.token=(not shown)", "--password", "(not shown)", "--debug"),
    ]


def test_show_a_job_hides_values(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is what the administrator's own lines of the script assign to a secret's name."""
    assert shown(files, "both", "--config=FILES/jupyterhub_config.py") == 0
    out = capsys.readouterr().out
    assert "secret-value" not in out
    assert "export API_TOKEN=(not shown); module load lab" in out


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("export API_TOKEN=abc", "export API_TOKEN=(not shown)"),
        ("A_KEY='a b'\"c d\"e; run", "A_KEY=(not shown); run"),
        ("lab '--App.token=a b' --x", "lab '--App.token=(not shown)' --x"),
        ("mount --password abc /x", "mount --password (not shown) /x"),
        (
            'curl -H "Authorization: Bearer abc" https://x',
            'curl -H "Authorization: (not shown)" https://x',
        ),
        (
            "git clone https://me:abc@example.org/x",
            "git clone https://me:(not shown)@example.org/x",
        ),
        ("PASSWORD='a\nb'\nrun", "PASSWORD=(not shown)\nrun"),
        ('token: "abc"', "token: (not shown)"),
        ('token:  "abc"\nx: 1', "token:  (not shown)\nx: 1"),
        ("api_key: 'a b' # x", "api_key: (not shown) # x"),
        ("password: it's abc", "password: (not shown)"),
        ("password: 'it''s abc'\nx: 1", "password: (not shown)\nx: 1"),
        ("password: 'abc", "password: (not shown)"),
        ('{"password": "a\\"b c", "user": "me"}', '{"password": (not shown), "user": "me"}'),
        ("{'password' : 'abc'}", "{'password' : (not shown)}"),
        ('{"password":"abc"}', '{"password":(not shown)}'),
        ('{"password":\n  "abc"}', '{"password":\n  (not shown)}'),
        ('{"pin_key": 1234}', '{"pin_key": (not shown)'),
        ('{"keys": ["abc", "d"], "x": 1}', '{"keys": (not shown), "x": 1}'),
        ('echo \'{"token": "abc"}\' > x', "echo '{\"token\": (not shown)}' > x"),
        ('echo "{\\"token\\": \\"a b\\"}"', 'echo "{\\"token\\": (not shown)}"'),
        ('KEY = "abc"', "KEY = (not shown)"),
        ("c.App.token = b'abc'\nrun", "c.App.token = (not shown)\nrun"),
        ('KEY = """a\nb"""\nrun', "KEY = (not shown)\nrun"),
        ('os.environ["KEY"] = "abc"', 'os.environ["KEY"] = (not shown)'),
        ("a:\n  key: |\n    abc\n\n     d\n  x: 1", "a:\n  key: (not shown)\n  x: 1"),
        # one name's quotes are no other's
        (
            'echo "token: "; PASSWORD="a b"\nrun',
            'echo "token: (not shown)\nrun',
        ),
        (
            'echo "token: "\nPASSWORD="a b"\nrun',
            'echo "token: "\nPASSWORD=(not shown)\nrun',
        ),
        ('[[ "$KEY" == x ]] && run', '[[ "$KEY" == x ]] && run'),
        ("bind /keys:/keys; monkey:latest", "bind /keys:/keys; monkey:latest"),
        ("module load lab; cd $HOME; run --debug", "module load lab; cd $HOME; run --debug"),
        ("PATH=/opt/bin:$PATH LANG=C run", "PATH=/opt/bin:$PATH LANG=C run"),
        ('test "$TOKEN" && echo "$TOKEN"', 'test "$TOKEN" && echo "$TOKEN"'),
    ],
)
def test_what_a_script_hides(script: str, seen: str) -> None:
    """What is assigned to a name that looks secret, however it is quoted; and nothing else."""
    assert hidden_text(script) == seen


@pytest.mark.parametrize(
    "script",
    [
        *("key" * 20_000, "-key" * 20_000, '"key": "' * 5_000, "token: '" * 5_000),
        *("key: \\'" * 5_000, "key = " * 10_000, "://a:" * 10_000, "key: |\n  a\n" * 5_000),
        *("key" + " " * 60_000, 'key"' + " " * 60_000, "key: |" + "\n " * 20_000),
    ],
    ids=str.__len__,
)
def test_a_long_script_is_read_soon(script: str) -> None:
    """Whatever is in it: nothing is gone through again for each of its characters."""
    hidden_text(script)


def test_show_a_pod_of_a_configuration(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``c.KubeSpawner``, ``c.KubernetesBackend`` and the person's identity are in it."""
    more = ("--config=FILES/jupyterhub_config.py", "--identity=FILES/alice.json")
    assert shown(files, "pod", *more) == 0
    out, err = capsys.readouterr()
    (pod,) = read(out)
    container = pod["spec"]["containers"][0]
    assert "in the namespace people" in out
    assert container["args"][0] == "/opt/lab/bin/jupyterhub-singleuser"
    assert {"name": "qhub-homes", "mountPath": "/home/alice", "subPath": "alice"} in container[
        "volumeMounts"
    ]
    context = pod["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1001, 1002)
    assert context["supplementalGroups"] == [3000]
    assert "alice:x:1001:1002::/home/alice:" in pod["metadata"]["annotations"]["qhub.dev/passwd"]
    assert "said by the configuration" in err


def test_show_both(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a profile with two backends: each, in the order in which they are tried."""
    assert shown(files, "both", "--config=FILES/jupyterhub_config.py") == 0
    out = capsys.readouterr().out
    job, _, pod = out.partition("# ==== Kubernetes: tried where the one before has no room ====")
    assert job.startswith("# ==== Slurm: tried first ====\n# sbatch, run as alice")
    assert "#   --account=project\n" in job
    assert "/opt/lab/bin/jupyterhub-singleuser" in job
    assert read(pod)[0]["kind"] == "Pod"


def test_show_what_was_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the person says which, only that one is shown."""
    profiles = files / "profiles.yaml"
    profiles.write_text(PROFILES.replace("POLICY", "ask"))
    assert shown(files, "both", "--option=backend=kubernetes") == 0
    out = capsys.readouterr().out
    assert "sbatch" not in out
    assert "kind: Pod" in out


@pytest.mark.parametrize(
    ("profile", "more", "said"),
    [
        ("odd", (), "no_such_trait"),
        ("pod", ("--config=FILES/none.py",), "none.py"),
        ("pod", ("--config=FILES/profiles.yaml",), "profiles.yaml"),
        ("pod", ("--identity=FILES/none.json",), "none.json"),
        ("pod", ("--identity=FILES/profiles.yaml",), "not an identity of version 1"),
    ],
)
def test_show_refused(
    files: Path,
    profile: str,
    more: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is not usable is named in a line, without a traceback."""
    assert shown(files, profile, *more) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_manifests(capsys: pytest.CaptureFixture[str]) -> None:
    """One Role, its binding, two policies, and nothing for the whole cluster."""
    assert main(["manifests", "--namespace=people", "--hub-namespace=jupyter"]) == 0
    found = read(capsys.readouterr().out)
    assert [each["kind"] for each in found] == [
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "NetworkPolicy",
    ]
    assert {each["metadata"]["namespace"] for each in found} == {"people"}
    assert found[1]["subjects"] == [
        {"kind": "ServiceAccount", "name": "hub", "namespace": "jupyter"}
    ]


def test_manifests_of_more(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option adds its rights, ports and networks."""
    options = ["--see-nodes", "--storage-claims", "--internal-ssl", "--service-account=jupyterhub"]
    options += ["--api-server=198.51.100.7", "--hub-network=192.0.2.0/24", "--server-port=8000"]
    assert main(["manifests", "--namespace=people", *options]) == 0
    out = capsys.readouterr().out
    role, binding, incoming, outgoing, *cluster = read(out)
    resources = {name for rule in role["rules"] for name in rule["resources"]}
    assert {"persistentvolumeclaims", "secrets", "services"} <= resources
    assert binding["subjects"][0]["name"] == "jupyterhub"
    assert incoming["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert {"ipBlock": {"cidr": "192.0.2.0/24"}} in incoming["spec"]["ingress"][0]["from"]
    assert "198.51.100.7/32" in str(outgoing)
    assert [each["kind"] for each in cluster] == ["ClusterRole", "ClusterRoleBinding"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--namespace=People", "--namespace 'People'"),
        ("--hub-namespace=a b", "--hub-namespace 'a b'"),
        ("--service-account=a\nb", "--service-account"),
        ("--server-port=0", "--server-port 0"),
        ("--api-server=everywhere", "--api-server"),
        ("--hub-network=192.0.2.7/24", "--hub-network"),
    ],
)
def test_manifests_refused(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that Kubernetes would not take is named, with what is expected."""
    assert main(["manifests", "--namespace=people", option]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "expected" in err


def test_yaml_gives_back_what_went_in() -> None:
    """However it is laid out: texts of several lines, things that look like numbers, empty things."""
    document = {
        "text": "a\nb\n",
        "number": "0123",
        "yes": "yes",
        "empty": {},
        "none": None,
        "list": ["a", {"b": "c: d", "e": ["x" * 80, "y"]}, []],
        "env": [{"name": "X", "value": "{a: b}, # c"}],
    }
    assert read(as_yaml(document, {"second": 1})) == [document, {"second": 1}]
