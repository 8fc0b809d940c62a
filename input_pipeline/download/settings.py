"""The settings of a download, and what each run makes of them: the name it goes by, and its policy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from input_pipeline.errors import UserError, nearest

AGENT = "jaxllava"  # what robots.txt may call us by
_CONTACT = re.compile(r"[^\s@()<>]+@[^\s@()<>]+\.[^\s@()<>]+|https?://[^\s()<>]+\.[^\s()<>]+", re.ASCII)
# What decides whether a picture is refused by us, not by its server.
_POLICY = ("allowed_hosts", "respect_robots", "allow_private", "max_bytes", "max_redirects")
# imgur's picture that says "removed": servers other than imgur's own hand it out too.
_PLACEHOLDERS = ("d835884373f4d6c8f24742ceabe74946",)


@dataclass(frozen=True)
class Settings:
    """How politely and how much. Times are seconds, sizes bytes; a limit of None is no limit."""

    contact: str = ""  # an e-mail address or web page of yours, sent with every request; must be given
    requests_per_second: float = 1.0  # of one host
    connections_per_host: int = 1
    hosts_in_parallel: int = 8  # requests at once, to all hosts together
    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # between two pieces of an answer
    deadline: float = 300.0  # of a whole request
    max_bytes: int = 20_000_000  # of one file
    retries: int = 4  # within a run; a later run asks again for what failed
    backoff: float = 1.0  # before the first retry; it doubles with each
    max_wait: float = 600.0  # a host that asks for a longer wait is left alone for this run
    host_failures: int = 10  # in a row; a host that is down or overloaded so often is left alone for this run
    allowed_hosts: tuple[str, ...] = ()  # with their subdomains; () is every public host
    respect_robots: bool = True
    allow_private: bool = (
        False  # also fetch from this machine and the local network: dumps are untrusted text
    )
    max_redirects: int = 5
    max_files: int | None = None  # stored by one run
    max_total_bytes: int | None = None  # received by one run
    queue: int = 1000  # URLs read ahead for one host; ten times that for all hosts
    placeholders: tuple[str, ...] = _PLACEHOLDERS  # MD5 of pictures that stand for one that is gone
    seed: int = 0  # of the jitter of the waits

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Builds the settings from a ConfigDict or dict.

        Raises:
            UserError: an unknown name, a value of the wrong kind, or no contact.
        """
        kinds = {f.name: str(f.type) for f in fields(cls)}
        values = dict(config)
        for name, value in values.items():
            if name not in kinds:
                raise UserError(f"download.{name}: no such setting.{nearest(name, kinds)}")
            if kinds[name].startswith("tuple") and isinstance(value, list | tuple):
                values[name] = tuple(value)
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises UserError for the first value that makes no sense."""
        for f in fields(self):
            value = getattr(self, f.name)
            if not _fits(value, str(f.type)):
                raise UserError(f"download.{f.name}={value!r} is not {_WORDS[str(f.type)]}")
        for name in ("requests_per_second", "connect_timeout", "read_timeout", "deadline"):
            if not getattr(self, name) > 0:
                raise UserError(f"download.{name} must be above 0")
        for name in ("connections_per_host", "hosts_in_parallel", "max_bytes", "queue", "host_failures"):
            if getattr(self, name) < 1:
                raise UserError(f"download.{name} must be at least 1")
        if not _CONTACT.fullmatch(self.contact):
            raise UserError(
                f"download.contact={self.contact!r}: give an e-mail address or a web page of yours, "
                "so that the owners of the servers can reach you"
            )

    @property
    def user_agent(self) -> str:
        """What every request says of who asks."""
        return f"{AGENT}/0 (+{self.contact})"

    @property
    def policy(self) -> str:
        """A short hash of the settings that refuse pictures: under another policy they are looked at again."""
        values = [getattr(self, name) for name in _POLICY]
        return hashlib.sha256(repr(values).encode()).hexdigest()[:12]

    def allows(self, host: str) -> bool:
        """Whether the host, or a domain that it belongs to, is among the allowed ones."""
        names = [name.lower().strip(".") for name in self.allowed_hosts]
        return not names or any(host == name or host.endswith(f".{name}") for name in names)


_WORDS = {
    "str": "a text",
    "int": "a whole number from 0 on",
    "float": "a number from 0 on",
    "bool": "True or False",
    "int | None": "a whole number from 0 on, or None",
    "tuple[str, ...]": "a list of texts",
}


def _fits(value: Any, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if kind == "str":
        return isinstance(value, str)
    if value is None:
        return kind == "int | None"
    number = int | float if kind == "float" else int
    return isinstance(value, number) and not isinstance(value, bool) and 0 <= value < float("inf")
