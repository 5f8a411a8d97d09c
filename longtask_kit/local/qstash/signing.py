"""Signatures of deliveries: JWTs as `qstash.Receiver` expects them (wire doc, section 4.1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field

MIN_KEY_BYTES = 32
LIFETIME_S = 300
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """The key that signs now, and the one that will after a rotation."""

    current: str = field(repr=False)
    next: str = field(repr=False)

    def __post_init__(self) -> None:
        for key in (self.current, self.next):
            if len(key.encode()) < MIN_KEY_BYTES:
                raise ValueError(f"a signing key needs {MIN_KEY_BYTES} bytes, got {len(key)}")

    def rotated(self) -> SigningKeys:
        """Return keys where the next one signs and a new one follows."""
        return SigningKeys(current=self.next, next=f"sig_{secrets.token_hex(14)}")


def sign_delivery(keys: SigningKeys, *, url: str, body: bytes, now_s: float) -> str:
    """Return the `Upstash-Signature` of one attempt.

    Args:
        keys: The current one signs; its characters are the key, as raw bytes.
        url: The exact URL that is called.
        body: The body's bytes; an empty body has a hash too.
        now_s: Unix time. `iat` is rounded down: PyJWT refuses an `iat` in the future.
    """
    issued_at = int(now_s)
    claims = {
        "iss": "Upstash",
        "sub": url,
        "exp": issued_at + LIFETIME_S,
        "nbf": 0,  # the hosted service does so since Sep 2024, after clock skew complaints
        "iat": issued_at,
        "jti": f"jwt_{secrets.token_hex(12)}",
        "body": base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode(),
    }
    # By hand, as PyJWT takes three times as long for each attempt; the SDKs' receivers verify it.
    payload = json.dumps(claims, separators=(",", ":")).encode()
    signed = b"%b.%b" % (_HEADER, base64.urlsafe_b64encode(payload).rstrip(b"="))
    digest = hmac.digest(keys.current.encode(), signed, "sha256")
    return f"{signed.decode()}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
