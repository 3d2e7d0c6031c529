"""`cache-actors healthcheck`: is this container's own instance up?

Containers are asked every few seconds for as long as they live, so this is cheap: see `instance`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from cache_actors.runtime.up_probe import NoAnswer, own_instance

if TYPE_CHECKING:
    from collections.abc import Mapping


class Unhealthy(Exception):
    """The service is not up; the message says what it is."""


def check_health(environment: Mapping[str, str]) -> str:
    """Ask `/up` of the instance with this environment, and return what it answers.

    Raises:
        BadAddress: the environment does not say where the service listens.
        Unhealthy: there is no answer, or it is not 200.
    """
    try:
        answer = own_instance(environment).get()
    except NoAnswer as error:
        raise Unhealthy(str(error)) from error
    text = answer.body.decode(errors="replace")
    if answer.status != HTTPStatus.OK:
        raise Unhealthy(f"/up answers {answer.status}: {text}")
    return text
