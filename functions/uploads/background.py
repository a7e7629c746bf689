"""What all functions without a route share: log keys, the time limit, and errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from uploads import errors
from uploads.http import Context, logger
from uploads.retries import within


@contextmanager
def background(context: Context, **keys: object) -> Iterator[None]:
    """Log an error of the work inside and raise it: the caller of the function retries.

    ``keys`` are in every log line.
    """
    logger.thread_safe_append_keys(**keys, function_request_id=context.aws_request_id)
    try:
        with within(context):
            yield
    except errors.StorageBusyError as error:
        metrics = EphemeralMetrics()
        metrics.add_metric("StorageBusy", MetricUnit.Count, 1)
        metrics.flush_metrics()
        logger.warning("busy", why=error.why)
        raise
    except Exception:
        logger.exception("failed")
        raise
    finally:
        logger.thread_safe_clear_keys()
