"""Who may talk to the page: trusted hosts and origins on every request, and a session that only its opener has.

The session's secret lies in the page's folder, readable by its owner alone, so that a server that was killed and
started again goes on with the browsers that were open. It comes into a browser by the address that the program prints,
or by the password, and then is a cookie that no other site's request carries (SameSite=Strict).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from singleinsert.errors import ConfigError, InputError
from singleinsert.masks.guard import TRUSTED, trusts

SECRET = "session"
"""File of the secret, in the page's hidden folder."""
LEAST_PASSWORD = 8
WAIT = 1.0
"""Seconds that a wrong password costs."""


@dataclass
class Gate:
    """Decides of each request whether it is from this page's own browser.

    Attributes:
        secret: of the session. port: the server's. hosts: names under which the server is asked, without ports.
        password: "" where the printed address is enough, on this machine alone. scheme: http or https.
    """

    secret: str
    port: int
    hosts: Collection[str] = TRUSTED
    password: str = ""
    scheme: str = "http"
    _failures: list[float] = field(default_factory=list)

    @property
    def cookie(self) -> str:
        """The cookie's name; pages on other ports of a machine share its cookies."""
        return f"singleinsert_{self.port}"

    def is_trusted(self, headers: Collection[tuple[str, str]]) -> bool:
        """Does the request name this server as its host, and come from no other site?"""
        raw = [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers
        ]
        return trusts(raw, self.hosts, (self.scheme,))

    def has_session(self, cookies: str) -> bool:
        """Does the Cookie header hold the session?"""
        for part in cookies.split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie and hmac.compare_digest(value.encode(), self.value().encode()):
                return True
        return False

    def value(self) -> str:
        """What the cookie holds: derived, so that the printed address's token is no cookie and the other way round."""
        return hashlib.sha256(f"cookie {self.port} {self.secret}".encode()).hexdigest()

    def opens(self, token: str) -> bool:
        """Is it the token of the printed address? None is taken where a password is asked for."""
        return not self.password and hmac.compare_digest(token.encode(), self.secret.encode())

    def accepts(self, password: str) -> bool:
        """Is it the password? Each wrong one makes the next answers wait."""
        if not self.password:
            return False
        now = time.monotonic()
        self._failures = [when for when in self._failures if now - when < 60]
        if self._failures:
            time.sleep(min(WAIT * len(self._failures), 5 * WAIT))
        right = hmac.compare_digest(password.encode(), self.password.encode())
        if not right:
            self._failures.append(now)
        return right


def read_secret(folder: Path) -> str:
    """The session's secret in ``folder``, made at the first start. InputError where it cannot be written."""
    path = folder / SECRET
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and len(found := path.read_text(encoding="ascii").strip()) >= 32:
            return found
        made = secrets.token_urlsafe(32)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(made)
        return made
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} cannot be written: {problem}") from problem


def read_password(path: Path | None, listen: str) -> str:
    """The password in a file. ConfigError where there is none, or a short one, and the page is to be seen elsewhere."""
    if path is None:
        if listen in TRUSTED:
            return ""
        raise ConfigError(
            f"--listen {listen} lets other machines see the page: give --password_file FILE, which holds a password "
            f"of {LEAST_PASSWORD} characters or more (or leave --listen out, and use ssh -L)"
        )
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"--password_file {path} cannot be read: {problem}") from problem
    if len(password) < LEAST_PASSWORD:
        raise ConfigError(f"--password_file {path}: {LEAST_PASSWORD} characters or more are needed")
    return password
