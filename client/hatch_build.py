"""The URLs of both Python packages: those of the repository that a release is made from.

The release workflow sets ``REPOSITORY_URL``; without it, a build has none.
"""

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Urls(MetadataHookInterface):
    """Adds ``project.urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add them to ``metadata``."""
        if url := os.environ.get("REPOSITORY_URL"):
            metadata["urls"] = {
                "Documentation": f"{url}/tree/main/docs",
                "Changelog": f"{url}/blob/main/CHANGELOG.md",
                "Issues": f"{url}/issues",
                "Source": url,
            }
