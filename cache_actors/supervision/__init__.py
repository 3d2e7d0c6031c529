"""Supervision for trio: actors, their mailboxes, and the supervisors that keep them running.

The package is independent of the cache. Vocabulary and contract are OTP's; the essays at the head
of `mailbox.py` and `supervisor.py` describe the differences.
"""

from .actor import Actor, actor_child
from .budget import Budget
from .errors import (
    ActorCrashed,
    ActorError,
    ActorStopped,
    CallingSelfError,
    MailboxFull,
    RestartIntensityError,
)
from .mailbox import Address, Call, Cast, Envelope, Mailbox, Message
from .shares import Holding, Owner, Shares
from .supervisor import STUCK_AFTER, ChildSpec, Started, State, Status, Supervisor, supervisor_child
from .turns import Turns

__all__ = [
    "STUCK_AFTER",
    "Actor",
    "ActorCrashed",
    "ActorError",
    "ActorStopped",
    "Address",
    "Budget",
    "Call",
    "CallingSelfError",
    "Cast",
    "ChildSpec",
    "Envelope",
    "Holding",
    "Mailbox",
    "MailboxFull",
    "Message",
    "Owner",
    "RestartIntensityError",
    "Shares",
    "Started",
    "State",
    "Status",
    "Supervisor",
    "Turns",
    "actor_child",
    "supervisor_child",
]
