"""The settings of all property tests, also of the client's, which run on Python 3.10."""

from hypothesis import HealthCheck, Phase, settings


def load() -> None:
    """Make them the default. A busy machine is slow, so nothing here depends on time."""
    settings.register_profile(
        "gapless",
        # Explaining a failure traces every line, which crashes Python 3.11 while other threads run.
        phases=set(Phase) - {Phase.explain},
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    settings.load_profile("gapless")
