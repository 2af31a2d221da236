"""Slurm's configuration files as text, from a definition and the places of one instance (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .definition import Definition, Node, Partition


@dataclass(frozen=True)
class Places:
    """Where one instance lives: its run folder, its ports, its host name.

    Attributes:
        folder: The run folder. Short, as it holds unix sockets (unix(7): 107 bytes at most).
        host: This machine's short host name.
        slurmctld_port: As the name says; so the others.
        node_ports: slurmd's port by node name.
        first_job_id: Jobs count from here, so that two clusters seldom know the same id.
        cgroup_plugin: "cgroup/v1" or "cgroup/v2".
        cgroup_mountpoint: The folder that holds the cgroup controllers for this instance.
    """

    folder: Path
    host: str
    slurmctld_port: int
    slurmdbd_port: int
    mariadb_port: int
    slurmrestd_port: int
    node_ports: Mapping[str, int]
    first_job_id: int
    cgroup_plugin: str
    cgroup_mountpoint: Path

    @property
    def munge_socket(self) -> Path:
        """munged's socket."""
        return self.folder / "munge" / "munge.socket.2"

    @property
    def jwt_key(self) -> Path:
        """The HS256 key that slurmctld and slurmdbd check tokens with."""
        return self.folder / "state" / "jwt_hs256.key"

    @property
    def slurm_conf(self) -> Path:
        """slurm.conf."""
        return self.folder / "slurm.conf"

    def gpu_device(self, index: int) -> Path:
        """The device file that stands for a GPU."""
        return self.folder / "devices" / f"gpu{index}"


def slurm_conf(definition: Definition, places: Places) -> str:
    """slurm.conf (man slurm.conf, 22.05)."""
    settings = {**_settings(definition, places), **definition.settings}
    return "\n".join(
        [
            *(f"{key}={value}" for key, value in settings.items()),
            *(_node(node, places) for node in definition.nodes),
            *(_partition(partition) for partition in definition.partitions),
            *definition.extra_lines,
            "",
        ]
    )


def _settings(definition: Definition, places: Places) -> dict[str, str]:
    folder = places.folder
    return {
        "ClusterName": definition.cluster_name,
        "SlurmctldHost": f"{places.host}(127.0.0.1)",
        "SlurmctldPort": str(places.slurmctld_port),
        "SlurmUser": "slurm",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={places.munge_socket}",
        "AuthAltTypes": "auth/jwt",
        "AuthAltParameters": f"jwt_key={places.jwt_key}",
        "CredType": "cred/munge",
        "StateSaveLocation": f"{folder}/state/ctld",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmdPidFile": f"{folder}/run/slurmd.%n.pid",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "ReturnToService": "2",
        "SlurmdParameters": "config_overrides",
        # every daemon listens on loopback only
        "CommunicationParameters": "NoAddrCache,NoInAddrAny,NoCtldInAddrAny",
        "TreeWidth": "65533",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=5,sched_interval=5,batch_sched_delay=0,defer_batch",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "PriorityType": "priority/multifactor",
        # without it a forbidden QOS or account waits PENDING instead of being refused
        "EnforcePartLimits": "ALL",
        # no QOS preempts another until a drill says so
        "PreemptType": "preempt/qos",
        "PreemptMode": "REQUEUE",
        "ProctrackType": "proctrack/cgroup",
        "TaskPlugin": "task/cgroup",
        "JobAcctGatherType": "jobacct_gather/cgroup",
        "FirstJobId": str(places.first_job_id),
        "MinJobAge": str(definition.min_job_age_seconds),
        "KillWait": "5",
        "CompleteWait": "0",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(places.slurmdbd_port),
        # without it slurmctld looks for munge's socket in /run/munge
        "AccountingStoragePass": str(places.munge_socket),
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "gres/gpu",
        # job_env and job_script are left out: they would store tokens in the database
        "AccountingStoreFlags": "job_comment",
        "GresTypes": "gpu",
    }


def _node(node: Node, places: Places) -> str:
    words = [
        f"NodeName={node.name} NodeAddr=127.0.0.1 NodeHostname={places.host}",
        f"Port={places.node_ports[node.name]} CPUs={node.cpus} Boards=1 SocketsPerBoard=1",
        f"CoresPerSocket={node.cpus} ThreadsPerCore=1 RealMemory={node.memory_mib} State=UNKNOWN",
    ]
    if node.gpus:
        words.append(f"Gres=gpu:{node.gpu_type}:{node.gpus}")
    if node.features:
        words.append(f"Feature={','.join(node.features)}")
    return " ".join(words)


def _partition(partition: Partition) -> str:
    words = [
        f"PartitionName={partition.name} Nodes={','.join(partition.nodes)} State=UP",
        f"MaxTime={partition.max_time} DefaultTime={partition.default_time}",
        f"DefMemPerCPU={partition.default_memory_per_cpu_mib}",
    ]
    if partition.default:
        words.append("Default=YES")
    if partition.allow_accounts:
        words.append(f"AllowAccounts={','.join(partition.allow_accounts)}")
    if partition.allow_qos:
        words.append(f"AllowQos={','.join(partition.allow_qos)}")
    words += [f"{key}={value}" for key, value in partition.extra.items()]
    return " ".join(words)


def slurmdbd_conf(places: Places, database_password: str) -> str:
    """slurmdbd.conf (man slurmdbd.conf, 22.05); has a password, so it is for slurm's eyes only."""
    return "\n".join(
        [
            "AuthType=auth/munge",
            f"AuthInfo=socket={places.munge_socket}",
            "AuthAltTypes=auth/jwt",
            f"AuthAltParameters=jwt_key={places.jwt_key}",
            "SlurmUser=slurm",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={places.slurmdbd_port}",
            f"PidFile={places.folder}/run/slurmdbd.pid",
            "StorageType=accounting_storage/mysql",
            "StorageHost=127.0.0.1",
            f"StoragePort={places.mariadb_port}",
            "StorageUser=slurm",
            f"StoragePass={database_password}",
            "StorageLoc=slurm_acct_db",
            "CommunicationParameters=NoInAddrAny",
            "",
        ]
    )


def database_sql(database_password: str) -> str:
    """What MariaDB runs at each of its starts."""
    return "\n".join(
        [
            "CREATE DATABASE IF NOT EXISTS slurm_acct_db;",
            # the user stands in a copied database with another instance's password
            f"CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{database_password}';",
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';",
            "",
        ]
    )


def cgroup_conf(places: Places) -> str:
    """cgroup.conf (man cgroup.conf, 22.05)."""
    lines = [
        f"CgroupPlugin={places.cgroup_plugin}",
        f"CgroupMountpoint={places.cgroup_mountpoint}",
        "CgroupAutomount=no",
        "ConstrainCores=yes",
        "ConstrainRAMSpace=yes",
        "AllowedRAMSpace=100",
    ]
    if places.cgroup_plugin == "cgroup/v2":
        lines.append("IgnoreSystemd=yes")
    return "\n".join([*lines, ""])


def gres_conf(definition: Definition, places: Places) -> str:
    """gres.conf (man gres.conf, 22.05)."""
    lines = ["AutoDetect=off"]
    for node in definition.nodes:
        lines += [
            f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={places.gpu_device(index)}"
            for index in range(node.gpus)
        ]
    return "\n".join([*lines, ""])


def accounting_commands(definition: Definition) -> list[list[str]]:
    """The sacctmgr(1) commands that record the cluster, its QOS, accounts and associations."""
    commands = [["add", "cluster", definition.cluster_name]]
    for qos in definition.qos:
        limits = [f"{key}={value}" for key, value in qos.limits.items()]
        if qos.name != "normal":
            commands.append(["add", "qos", qos.name, *limits])
        elif limits:
            commands.append(["modify", "qos", "normal", "set", *limits])
    cluster = f"cluster={definition.cluster_name}"
    commands += [["add", "account", account, cluster] for account in definition.accounts]
    seen: set[str] = set()
    for association in definition.associations:
        words = ["add", "user", association.user, f"account={association.account}"]
        words += [cluster, f"qos={','.join(association.qos)}"]
        words += [f"defaultqos={association.qos[0]}"]
        if association.user not in seen:
            words.append(f"defaultaccount={association.account}")
        seen.add(association.user)
        commands.append(words + [f"{key}={value}" for key, value in association.limits.items()])
    return commands
