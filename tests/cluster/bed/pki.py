"""The certificates of one cluster: an authority, what its servers show, and a kubeconfig per client."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(minutes=5)

CLIENTS = {
    # file name: (organization, common name); RBAC's bootstrap policy knows all of them
    "admin": ("system:masters", "admin"),
    "kube-controller-manager": (None, "system:kube-controller-manager"),
    "kube-scheduler": (None, "system:kube-scheduler"),
    "kube-proxy": (None, "system:kube-proxy"),
    "coredns": ("system:masters", "coredns"),
}


@dataclass(frozen=True)
class Pki:
    folder: Path

    def __getitem__(self, name: str) -> str:
        """The path of a file, as the flags of every program want it."""
        return str(self.folder / name)

    @staticmethod
    def make(folder: Path, server: str, addresses: Sequence[str], node: str | None = None, node_ip: str = "") -> Pki:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        authority = Authority(folder)
        services = [f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        authority.server("apiserver", "kube-apiserver", names=["localhost", *services], addresses=addresses)
        authority.client("kubelet-client", "system:masters", "kube-apiserver-kubelet-client")
        authority.client("front-proxy-client", None, "front-proxy-client")
        clients = dict(CLIENTS)
        if node:
            authority.server(
                "kubelet-serving", f"system:node:{node}", names=[node], addresses=[node_ip], organization="system:nodes"
            )
            clients["kubelet"] = ("system:nodes", f"system:node:{node}")
        for name, (organization, common_name) in clients.items():
            authority.client(name, organization, common_name)
            _write(folder / f"{name}.kubeconfig", _kubeconfig(folder, server, name))
        # Service account tokens are RS256 by convention: verifiers of OIDC tokens expect it.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write(folder / "sa.key", _pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(folder / "sa.pub", public)
        return Pki(folder)


class Authority:
    def __init__(self, folder: Path):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(None, "bed-ca")
        usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
        certificate = (
            _dated(self.name, self.name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )
        _write(folder / "ca.key", _pem(self.key))
        _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self,
        file: str,
        common_name: str,
        names: Sequence[str],
        addresses: Sequence[str],
        organization: str | None = None,
    ) -> None:
        shown = [x509.DNSName(name) for name in names] + [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        self._sign(
            file, _name(organization, common_name), ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(shown)
        )

    def client(self, file: str, organization: str | None, common_name: str) -> None:
        self._sign(file, _name(organization, common_name), ExtendedKeyUsageOID.CLIENT_AUTH)

    def _sign(
        self,
        file: str,
        subject: x509.Name,
        purpose: x509.ObjectIdentifier,
        shown: x509.SubjectAlternativeName | None = None,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _dated(subject, self.name, key)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if shown:
            builder = builder.add_extension(shown, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        _write(self.folder / f"{file}.key", _pem(key))
        _write(self.folder / f"{file}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _kubeconfig(folder: Path, server: str, client: str) -> bytes:
    """Self-contained, so that a copy of it works anywhere on this host."""

    def data(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [
                {
                    "name": client,
                    "user": {
                        "client-certificate-data": data(f"{client}.crt"),
                        "client-key-data": data(f"{client}.key"),
                    },
                }
            ],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": client}}],
        }
    ).encode()


def _name(organization: str | None, common_name: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
