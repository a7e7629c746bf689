"""A client of the stack's handlers with schemas of a test's own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from local.gateway import Gateway, Lambda
from tests.api import Api, through_gateway
from uploads.config import Config
from uploads.wiring import Wiring


def api_with(schemas: Path, **settings: Any) -> Api:  # noqa: ANN401 - any of Config's
    """A client of newly built functions, with a folder of schemas and Config's ``settings``."""
    import batches  # noqa: PLC0415 - they read the environment, which the stack sets
    import finish  # noqa: PLC0415
    import sessions  # noqa: PLC0415

    wiring = Wiring(replace(Config.from_env(os.environ), schemas=schemas, **settings))
    root, one = Api.ROOT, f"{Api.ROOT}/{{sessionId}}"
    parts = {
        f"POST {root}": sessions,
        f"GET {one}": sessions,
        f"GET {one}/manifest": sessions,
        f"POST {one}": batches,
        f"PUT {one}/batches/{{seqNum}}": batches,
        f"POST {one}/finish": finish,
    }
    functions = {part: Lambda(part.build(wiring)) for part in set(parts.values())}
    return Api(through_gateway(Gateway({route: functions[part] for route, part in parts.items()})))
