"""`cache-actors healthcheck`: the health of this container's own instance.

A container runtime runs this every few seconds, so it must be cheap: see `runtime/up_probe.py`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from cache_actors.runtime.up_probe import NoAnswer, own_instance

if TYPE_CHECKING:
    from collections.abc import Mapping


class Unhealthy(Exception):
    """The service is not up; the message has its answer, or the reason why there is none."""


def check_health(environment: Mapping[str, str]) -> str:
    """Ask `/up` of the instance with this environment, and return the body of the answer.

    Raises:
        BadAddress: the environment has no valid address of the service.
        Unhealthy: there is no answer, or its status is not 200.
    """
    try:
        answer = own_instance(environment).get()
    except NoAnswer as error:
        raise Unhealthy(str(error)) from error
    text = answer.body.decode(errors="replace")
    if answer.status != HTTPStatus.OK:
        raise Unhealthy(f"/up answers {answer.status}: {text}")
    return text
