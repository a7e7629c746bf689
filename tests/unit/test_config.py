"""Settings from the environment: one error names all that are missing or wrong."""

from collections.abc import Mapping

import pytest

from uploads.config import AuthMode, Config, ConfigError

ENVIRON: Mapping[str, str] = {
    "SESSIONS_TABLE": "sessions",
    "BATCHES_BUCKET": "batches",
    "MERGED_BUCKET": "merged",
    "AUTH_MODE": "IAM",
    "SESSION_LIFETIME_HOURS": "24",
    "MERGED_RETENTION_DAYS": "30",
    "AWS_REGION": "eu-central-1",
}


def test_what_is_set_is_read() -> None:
    assert Config.from_env({**ENVIRON, "UNRELATED": "x"}) == Config(
        sessions_table="sessions",
        batches_bucket="batches",
        merged_bucket="merged",
        auth_mode=AuthMode.IAM,
        session_lifetime=24 * 60 * 60,
        merged_retention=30 * 24 * 60 * 60,
        region="eu-central-1",
        url_suffix="amazonaws.com",
        credentials=None,
        ca_bundle=None,
        endpoint_url=None,
        presign_endpoint_url=None,
        merge_state_machine=None,
        event_bus="default",
    )


@pytest.mark.parametrize(
    ("value", "expected"), [("http://localhost:5000", "http://localhost:5000"), ("", None)]
)
def test_endpoints_are_optional(value: str, expected: str | None) -> None:
    names = ("AWS_ENDPOINT_URL", "PRESIGN_ENDPOINT_URL", "MERGE_STATE_MACHINE")
    config = Config.from_env({**ENVIRON, **dict.fromkeys(names, value)})
    assert config.endpoint_url == expected
    assert config.presign_endpoint_url == expected
    assert config.merge_state_machine == expected


@pytest.mark.parametrize("mode", ["IAM", "JWT", "NONE"])
def test_auth_modes(mode: str) -> None:
    assert Config.from_env({**ENVIRON, "AUTH_MODE": mode}).auth_mode is AuthMode[mode]


def test_one_error_names_everything_that_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({})
    assert [name for name in ENVIRON if name not in str(caught.value)] == []


@pytest.mark.parametrize("name", ENVIRON)
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_only_the_missing_one_is_named(name: str, empty: bool) -> None:  # noqa: FBT001
    environ = {key: value for key, value in ENVIRON.items() if key != name}
    if empty:
        environ[name] = ""
    with pytest.raises(ConfigError) as caught:
        Config.from_env(environ)
    assert [known for known in ENVIRON if known in str(caught.value)] == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_MODE", "iam"),
        ("AUTH_MODE", "OPEN"),
        ("SESSION_LIFETIME_HOURS", "a day"),
        ("SESSION_LIFETIME_HOURS", "1.5"),
        ("MERGED_RETENTION_DAYS", "30d"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({**ENVIRON, name: value})
    assert name in str(caught.value)
