"""Signed versions: replicas that trust a key serve what the gate has signed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.workflows_on_kind import QUICK, Runs, configuration, get, kubectl

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def private() -> Iterator[str]:
    """Replicas trust a key; yields its private part, which nobody has yet."""
    key = Ed25519PrivateKey.generate()
    form, how = pem.PublicFormat.SubjectPublicKeyInfo, pem.NoEncryption()
    public = key.public_key().public_bytes(pem.Encoding.PEM, form).decode()
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how).decode()
    kubectl("create", "configmap", "trusted-key", f"--from-literal=pem={public}")
    try:
        yield secret
    finally:
        kubectl("delete", "configmap", "trusted-key")
        kubectl("delete", "secret", "signing-key", "--ignore-not-found")


def test_what_nobody_has_signed_is_not_served_and_what_the_gate_signs_is(
    runs: Runs, private: str
) -> None:
    serving = {"replicas": 1, "ready_timeout_seconds": 60}
    content = configuration({"quick": QUICK}, serving=serving)
    refused = runs.submit(content)
    assert refused.wait() == "Failed", refused.describe()
    error = refused.record()["error"]
    assert "is not signed by the trusted key: it has no signature" in error, error
    assert get("inferenceservice", content["name"]) is None

    kubectl("create", "secret", "generic", "signing-key", f"--from-literal=pem={private}")
    served = runs.submit(content)
    served.assert_succeeds()
    assert served.keys() == refused.keys()
