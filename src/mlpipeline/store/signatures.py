"""Signatures of versions: who holds the key has let it pass, and nobody has changed it since.

    models/NAME/VERSION/MANIFEST.json       names the SHA-256 of every other file
    models/NAME/VERSION/MANIFEST.json.sig   Ed25519 (RFC 8032) of that; no part of the manifest

The step `gate` signs what it lets pass, if it has a key; replicas that are given the public one
serve nothing else. Both keys are PEM in environment variables. With OpenSSL:

    openssl genpkey -algorithm ed25519 -out signing.pem
    openssl pkey -in signing.pem -pubout -out trusted.pem
    openssl pkeyutl -verify -pubin -inkey trusted.pem -rawin -in MANIFEST.json
        -sigfile MANIFEST.json.sig
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlpipeline.errors import ConfigurationError, ServingError
from mlpipeline.store import artifacts, files
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.selection import ModelCard

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNING_KEY, TRUSTED_KEY = "MLPIPELINE_SIGNING_KEY", "MLPIPELINE_TRUSTED_KEY"


def key_to_sign() -> dict[str, str]:
    """Return the variable that the process needs which signs; empty where there is no key."""
    return {SIGNING_KEY: os.environ[SIGNING_KEY]} if SIGNING_KEY in os.environ else {}


def sign(folder: ModelFolder, variables: Mapping[str, str] = os.environ) -> bool:
    """Sign a version with the key of this process's environment; return whether there is one.

    Args:
        folder: Where it is published.
        variables: The environment.

    Raises:
        ArtifactError: The version is missing or damaged.
        ConfigurationError: The variable holds no private key.
    """
    pem = variables.get(SIGNING_KEY, "").strip()
    if not pem:
        return False
    key = _private_key(pem)
    artifacts.verify(folder.path)
    files.write_bytes(folder.signature, key.sign(folder.manifest.read_bytes()))
    return True


def check(folder: ModelFolder, name: str, variables: Mapping[str, str] = os.environ) -> str | None:
    """Refuse a version that is not signed by the trusted key, if this process has one.

    Args:
        folder: Where it is published.
        name: The name of the model that it is to be served as.
        variables: The environment.

    Returns:
        The digest that was signed, of `artifacts.digest`: what is loaded afterwards must have it.
        None where no key is trusted, so anything is.

    Raises:
        ConfigurationError: The variable holds no public key.
        ServingError: It is not signed, or by another key, or was changed, or is another version.
        ArtifactError: It is missing or damaged.
    """
    pem = variables.get(TRUSTED_KEY, "").strip()
    if not pem:
        return None
    from cryptography.exceptions import InvalidSignature

    key = _public_key(pem)
    card = ModelCard.load(folder.card)
    if (card.name, card.version) != (name, folder.version):  # the signed files of another one
        raise _refused(folder, name, f"it holds version {card.version} of `{card.name}`")
    manifest = folder.manifest.read_bytes()
    try:
        key.verify(folder.signature.read_bytes(), manifest)
    except FileNotFoundError:
        raise _refused(folder, name, "it has no signature") from None
    except InvalidSignature:
        raise _refused(folder, name, "its signature is another key's, or of other files") from None
    return hashlib.sha256(manifest).hexdigest()


def _refused(folder: ModelFolder, name: str, why: str) -> ServingError:
    return ServingError(
        f"version {folder.version} of `{name}` is not signed by the trusted key: {why}",
        expected=f"a signature by the key whose public part {TRUSTED_KEY} holds",
        remedy="if you know where it comes from: `mlpipeline sign`, with that key; or serve "
        "another version",
    )


def _private_key(pem: str) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise _no_key(SIGNING_KEY, "private") from None  # nothing of its text gets into a log
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(SIGNING_KEY, "private")
    return key


def _public_key(pem: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _no_key(TRUSTED_KEY, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(TRUSTED_KEY, "public")
    return key


def _no_key(variable: str, kind: str) -> ConfigurationError:
    return ConfigurationError(
        f"{variable} holds no {kind} key that can be used",
        expected=f"the PEM of an Ed25519 {kind} key, without a password",
        remedy="docs/how-to/sign.md says how one is made",
    )
