"""Keys and certificates: a certificate authority for each instance.

What the components need, and the names in their subjects, is in Kubernetes' documentation ("PKI
certificates and requirements", "Default roles and role bindings").
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .kubeconfigs import base64_of, write_kubeconfig, write_secret
from .places import NODE, Places

VALID = dt.timedelta(days=30)
BEFORE = dt.timedelta(days=2)  # clocks are moved in drills


class Authority:
    """A certificate authority, and the folder where it puts what it issues.

    Args:
        folder: Where files NAME.crt and NAME.key go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("qhub test CA", ())
        certificate = self._builder(self._name, self._key.public_key())
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = certificate.add_extension(usage, True)
        self._write("ca", self._key, certificate.sign(self._key, hashes.SHA256()))

    def issue(
        self,
        name: str,
        common_name: str,
        organizations: Sequence[str] = (),
        *,
        hosts: Sequence[str | IPv4Address] = (),
    ) -> None:
        """Write NAME.crt and NAME.key, for clients and (with `hosts`) for servers."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._builder(_subject(common_name, organizations), key.public_key())
        usage = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        )
        certificate = certificate.add_extension(usage, False)
        if hosts:
            names = [
                x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
                for host in hosts
            ]
            certificate = certificate.add_extension(x509.SubjectAlternativeName(names), False)
        self._write(name, key, certificate.sign(self._key, hashes.SHA256()))

    def key_pair(self, name: str) -> None:
        """Write NAME.key and NAME.pub, with no certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(self._folder / f"{name}.key", _pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self._folder / f"{name}.pub").write_bytes(public)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - BEFORE,
            not_valid_after=now + VALID,
        )

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> None:
        write_secret(self._folder / f"{name}.key", _pem(key))
        (self._folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def write_all(places: Places) -> None:
    """Everything that the daemons need, and a kubeconfig for each who speaks to the API server."""
    folder = places.certificates
    authority = Authority(folder)
    authority.key_pair("service-accounts")
    addresses = places.addresses
    names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    hosts = (*names, addresses.node, addresses.api, IPv4Address("127.0.0.1"))
    authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
    authority.issue("apiserver-to-kubelet", "apiserver", ["system:masters"])
    authority.issue(
        "kubelet", f"system:node:{NODE}", ["system:nodes"], hosts=[NODE, addresses.node]
    )
    authority.issue("kube-controller-manager", "system:kube-controller-manager")
    authority.issue("kube-scheduler", "system:kube-scheduler")
    authority.issue("kube-proxy", "system:kube-proxy")
    authority.issue("admin", "qhub-test-admin", ["system:masters"])
    for name in ("admin", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        user = {
            "client-certificate-data": base64_of(folder / f"{name}.crt"),
            "client-key-data": base64_of(folder / f"{name}.key"),
        }
        write_kubeconfig(places, name, user)


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
