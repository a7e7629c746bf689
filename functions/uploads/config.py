"""The settings of a deployment. No other module may read the environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

Clock = Callable[[], int]
"""Seconds since 1970."""


SCHEMAS: Final = Path(__file__).parents[1] / "schemas"
"""The folder of schemas in the deployed package."""


class AuthMode(StrEnum):
    """How callers are authenticated."""

    IAM = "IAM"
    JWT = "JWT"
    NONE = "NONE"
    """All callers are one principal; the unguessable session id is the only protection."""


class Credentials(NamedTuple):
    """Keys of AWS."""

    access_key: str
    secret_key: str
    token: str | None = None
    """Of temporary credentials."""


class ConfigError(Exception):
    """Settings are missing or wrong; the message names all of them."""


@dataclass(frozen=True)
class Config:
    """The settings that ``template.yaml`` sets for every function."""

    sessions_table: str
    batches_bucket: str
    merged_bucket: str
    auth_mode: AuthMode
    session_lifetime: int
    """Seconds for which a session takes batches."""
    merged_retention: int
    """Seconds for which a merged object is kept."""
    region: str
    url_suffix: str
    """The DNS suffix of AWS's services in this partition, like ``amazonaws.com``."""
    credentials: Credentials | None = field(repr=False)
    """Lambda sets them, for as long as the function lives. None: botocore is to find them."""
    ca_bundle: str | None
    """A file of certificates to trust instead of the machine's own."""
    endpoint_url: str | None
    """Endpoint of all AWS services; None for AWS itself."""
    presign_endpoint_url: str | None
    """S3 endpoint for links to callers, if it differs from the functions' own."""
    merge_state_machine: str | None
    """ARN of the state machine for long merges; without it every merge runs in the call."""
    event_bus: str = "default"
    """The EventBridge bus that the events function publishes to."""
    schemas: Path = SCHEMAS
    """The folder of the schemas that sessions may name."""
    require_schema: bool = False
    """Whether every session must name a schema."""
    https_proxy: str | None = field(default=None, repr=False)
    """URL of the proxy to AWS, with its password, if any."""
    no_proxy: str = ""
    """Hosts that are asked without it, separated by commas."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. Raises ConfigError."""
        names = (
            "SESSIONS_TABLE",
            "BATCHES_BUCKET",
            "MERGED_BUCKET",
            "AUTH_MODE",
            "SESSION_LIFETIME_HOURS",
            "MERGED_RETENTION_DAYS",
            "AWS_REGION",
        )
        if missing := [name for name in names if not environ.get(name)]:
            raise ConfigError(f"Set these environment variables: {', '.join(missing)}.")
        wrong = []
        if environ["AUTH_MODE"] not in list(AuthMode):
            wrong.append(f"AUTH_MODE must be one of {', '.join(AuthMode)}")
        wrong += [
            f"{name} must be a whole number above 0"
            for name in ("SESSION_LIFETIME_HOURS", "MERGED_RETENTION_DAYS")
            if not (environ[name].isascii() and environ[name].isdecimal() and int(environ[name]))
        ]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")
        return cls(
            sessions_table=environ["SESSIONS_TABLE"],
            batches_bucket=environ["BATCHES_BUCKET"],
            merged_bucket=environ["MERGED_BUCKET"],
            auth_mode=AuthMode(environ["AUTH_MODE"]),
            session_lifetime=int(environ["SESSION_LIFETIME_HOURS"]) * 3600,
            merged_retention=int(environ["MERGED_RETENTION_DAYS"]) * 86400,
            region=environ["AWS_REGION"],
            url_suffix=environ.get("URL_SUFFIX") or "amazonaws.com",
            credentials=_credentials(environ),
            ca_bundle=environ.get("AWS_CA_BUNDLE") or None,
            endpoint_url=environ.get("AWS_ENDPOINT_URL") or None,
            presign_endpoint_url=environ.get("PRESIGN_ENDPOINT_URL") or None,
            merge_state_machine=environ.get("MERGE_STATE_MACHINE") or None,
            schemas=Path(environ.get("SCHEMAS_DIR") or SCHEMAS),
            require_schema=environ.get("REQUIRE_SCHEMA") == "true",
            event_bus=environ.get("EVENT_BUS") or "default",
            https_proxy=environ.get("https_proxy") or environ.get("HTTPS_PROXY") or None,
            no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY") or "",
        )


def _credentials(environ: Mapping[str, str]) -> Credentials | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    return (
        Credentials(key, secret, environ.get("AWS_SESSION_TOKEN") or None)
        if key and secret
        else None
    )
