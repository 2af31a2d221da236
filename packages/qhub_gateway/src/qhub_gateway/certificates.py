"""The key and the certificate that scheduler, workers and clients of one cluster share.

dask-gateway makes RSA keys, which take a tenth of a second and more each, in the loop that answers
everybody's requests. A key on the curve P-256 takes a thousandth, and is as strong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

INTERNAL = "dask-internal"
"""What dask-gateway calls the subject; Dask itself looks at who has signed, and at no name."""

LIFETIME = timedelta(days=365)
EARLIER = timedelta(days=1)
"""A node whose clock is behind takes a new certificate all the same."""


def new_keypair(sni: str) -> tuple[bytes, bytes]:
    """Return a new certificate that signs itself, and its key, both as PEM.

    Args:
        sni: The name by which the proxy knows the cluster.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, INTERNAL)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(sni), x509.DNSName(INTERNAL)]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
