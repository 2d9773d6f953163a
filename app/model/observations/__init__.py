"""Everything about the running server that can be observed, as one vocabulary.

Each module says what happened and knows nothing of logs or metrics, which are two readings of the same facts.

Invariants
- There is no I/O here.
- No fact carries a secret. No fact but PageRefused carries a client's value.
- What happens to each message is told once for a batch and audience, with a count.
"""

from typing import Final

from app.model.observations.base import Observation, Observer, Transport, fan
from app.model.observations.clients import (
    Authenticated,
    AuthMethod,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionOpened,
    Crowded,
    Delivered,
    Full,
    JwksFailed,
    JwksFetched,
    Lagging,
    Limited,
    MessagesReceived,
    MessagesSent,
    PageRefused,
    Refused,
    Replayed,
    ReplayRead,
    Reset,
    SocketCut,
)
from app.model.observations.database import (
    BatchRead,
    ConnectFailed,
    DatabaseBack,
    DatabaseLost,
    EventLogState,
    EventLogTurnBlocked,
    EventLogTurned,
    EventLogTurnFree,
    Flowing,
    FuseHealed,
    FuseOpened,
    Gate,
    HistoryBytes,
    IncarnationChanged,
    LeaderEnded,
    Led,
    NotFlowing,
    QueueUsage,
    Resigned,
    SafetyPollFound,
    StrangerAtLock,
    Strangers,
    TableOffAir,
    TableRedefined,
    Unreadable,
    WatchProblem,
)
from app.model.observations.process import (
    Failed,
    FanOut,
    Noted,
    Served,
    Stopped,
    Timeout,
    WorkerEnded,
    WorkerHeard,
    WorkerHung,
    WorkerNotStarted,
    WorkerStarted,
)
from app.model.observations.rights import PoliciesRead, PolicyUnreadable, SubscribeRefused

__all__ = [
    "FACTS",
    "AuthMethod",
    "Authenticated",
    "BatchRead",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionOpened",
    "Crowded",
    "DatabaseBack",
    "DatabaseLost",
    "Delivered",
    "EventLogState",
    "EventLogTurnBlocked",
    "EventLogTurnFree",
    "EventLogTurned",
    "Failed",
    "FanOut",
    "Flowing",
    "Full",
    "FuseHealed",
    "FuseOpened",
    "Gate",
    "HistoryBytes",
    "IncarnationChanged",
    "JwksFailed",
    "JwksFetched",
    "Lagging",
    "LeaderEnded",
    "Led",
    "Limited",
    "MessagesReceived",
    "MessagesSent",
    "NotFlowing",
    "Noted",
    "Observation",
    "Observer",
    "PageRefused",
    "PoliciesRead",
    "PolicyUnreadable",
    "QueueUsage",
    "Refused",
    "ReplayRead",
    "Replayed",
    "Reset",
    "Resigned",
    "SafetyPollFound",
    "Served",
    "SocketCut",
    "Stopped",
    "StrangerAtLock",
    "Strangers",
    "SubscribeRefused",
    "TableOffAir",
    "TableRedefined",
    "Timeout",
    "Transport",
    "Unreadable",
    "WatchProblem",
    "WorkerEnded",
    "WorkerHeard",
    "WorkerHung",
    "WorkerNotStarted",
    "WorkerStarted",
    "fan",
]

# The whole vocabulary: the tests of logs and metrics see to it that none is forgotten.
FACTS: Final = frozenset(
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Observation) and kind is not Observation
)
