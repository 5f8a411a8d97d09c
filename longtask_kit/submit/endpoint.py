"""Where a model is asked, and by whom: URL, key, proxy and certificates of the kernel that gave it.

A task carries the id of one, never what is in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Self
from urllib.parse import urlsplit

from longtask_kit.settings import check_secret, check_url
from longtask_kit.transport import find_proxy

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible service as one kernel reaches it; its repr shows no secret.

    Attributes:
        url: Its base URL, without a last slash.
        key: Its API key; empty where it wants none.
        proxy: URL of the proxy on the way to it, or None.
        ca_file: Certificates to trust instead of the system's, an absolute path, or None.
        ca_folder: A folder of such, or None.
        organization: Whose account is used, where a key has several, or None.
        project: As `organization`.
        cassette: Whole path of a file of recorded answers, which are replayed instead of asking
            anybody, or None.
        cassette_speed: How fast: 1 is the recorded pace, 0 no pace.
    """

    url: str = OPENAI_URL
    key: str = field(default="", repr=False)
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    ca_file: str | None = None
    ca_folder: str | None = None
    organization: str | None = None
    project: str | None = None
    cassette: str | None = None
    cassette_speed: str | None = None

    @property
    def host(self) -> str:
        """Host, and port if it is not the usual one: what may be shown."""
        if self.cassette is not None:
            return f"recording {os.path.basename(self.cassette)}"
        return urlsplit(self.url).netloc

    def make_id(self, secret: str) -> str:
        """Return an id that tells nothing to whoever does not know `secret`."""
        values = asdict(self)
        if self.cassette is None:  # the id is what it was before there were any
            del values["cassette"], values["cassette_speed"]
        text = json.dumps(values, sort_keys=True)
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]

    def to_json(self) -> str:
        """Return all of it, key included: for a file that only the user can read."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        values = json.loads(text)
        names = cls.__dataclass_fields__
        if not isinstance(values, dict):
            raise ValueError("no object")  # noqa: TRY004 - as of any other damage
        known = {n: v for n, v in values.items() if n in names}
        if not all(v is None or isinstance(v, str) for v in known.values()):
            raise ValueError("a value is no text")
        endpoint = cls(**known)
        check_url(endpoint.url)
        if endpoint.key:
            check_secret(endpoint.key)
        return endpoint


def make_endpoint(url: str, key: str) -> Endpoint:
    """Return an endpoint as this process reaches it: its proxies, its certificates, its account.

    Raises:
        ConfigError: The environment names a proxy that can't be used.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return Endpoint(
        url=url,
        key=key,
        proxy=find_proxy(url),
        # Whole paths: the process that asks has a working folder of its own.
        ca_file=os.path.abspath(file) if file else None,
        ca_folder=os.path.abspath(folder) if folder else None,
        organization=os.environ.get("OPENAI_ORG_ID") or None,
        project=os.environ.get("OPENAI_PROJECT_ID") or None,
    )
