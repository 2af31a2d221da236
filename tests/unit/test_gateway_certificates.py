"""The certificates of clusters: what Dask and the proxy need, and no more time than that."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from qhub_gateway.certificates import EARLIER, new_keypair


def test_certificate_has_both_names_and_suits_its_key(tmp_path: Path) -> None:
    """The name that the proxy knows, and dask-gateway's own; a context of Python's takes the pair."""
    cert, key = new_keypair("daskgateway-c1")
    found = x509.load_pem_x509_certificate(cert)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["daskgateway-c1", "dask-internal"]
    (common,) = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common.value == "dask-internal"
    found.verify_directly_issued_by(found)
    for name, text in (("cert", cert), ("key", key)):
        (tmp_path / name).write_bytes(text)
    ssl.create_default_context(cafile=str(tmp_path / "cert")).load_cert_chain(
        tmp_path / "cert", tmp_path / "key"
    )


def test_certificate_holds_where_clocks_are_behind() -> None:
    """It is valid from before it was made."""
    found = x509.load_pem_x509_certificate(new_keypair("c1")[0])
    assert found.not_valid_before_utc <= datetime.now(UTC) - EARLIER
    assert found.not_valid_after_utc > datetime.now(UTC)


def test_no_two_clusters_share_a_key() -> None:
    """Each call makes another."""
    assert len({new_keypair("c1")[1] for _ in range(3)}) == 3


def test_gateway_makes_its_certificates_so() -> None:
    """dask-gateway asks for a pair by this name, which the backend gives another meaning."""
    from dask_gateway_server.backends import db_base

    from qhub_gateway import backend

    assert backend.db_base is db_base
    assert db_base.new_keypair is new_keypair
