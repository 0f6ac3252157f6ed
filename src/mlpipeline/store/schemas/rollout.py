"""`trial.json` and `rollout.json`: a version that is tried on real requests before it is served."""

from __future__ import annotations

from typing import ClassVar, Literal

from mlpipeline.store.schemas.document import Document, Part
from mlpipeline.store.schemas.gate import GateCheck, Judgement

Mode = Literal["shadow", "canary"]


class TrialOrder(Document):
    """The content of `trial.json`: what the replicas of a version are to do with another one.

    Attributes:
        token: Differs each time that an order is given; figures are of one order.
        mode: `canary`: the other version answers a share of the requests. `shadow`: it is sent a
            copy of them, and nobody sees what it says.
        champion: The version whose replicas are to do it.
        challenger: The other version.
        address: Where that one answers, HOST:PORT of REST.
        share: The share of requests, 0 to 1.
        timeout_seconds: How long it may take for one.
        until: When the order ends by itself, in seconds since 1970.
        report_to: Where figures are posted to, HOST:PORT.
    """

    CALLED: ClassVar[str] = "order to try a version"

    token: str
    mode: Mode
    champion: str
    challenger: str
    address: str
    share: float
    timeout_seconds: float
    until: float
    report_to: str


class TrialFigures(Document):
    """What one replica of the champion has counted since an order began.

    Attributes:
        id: Differs each time that a replica begins to count: one that was started anew begins anew.
        replica: Its name.
        requests: Requests that might have been tried.
        tried: Requests that the challenger was sent.
        failed: How many of these it did not answer, or not in time, or not as a model does.
        failure: What the last of these was, in words.
        images: Images that both have answered.
        agreed: How many of them both say the same class of.
        dropped: Requests that were not compared, because others were still waiting for that.
        champion_times: How many requests the champion took how long for: the counts of the
            intervals of `plan.rollout`, without zeros at the end.
        challenger_times: The same of the challenger, as it says itself.
        round_trips: The same with the way to it and back.
        stopped: Why this replica does not try it any more; empty while it does.
    """

    CALLED: ClassVar[str] = "figures of a trial"

    id: str
    replica: str
    requests: int = 0
    tried: int = 0
    failed: int = 0
    failure: str = ""
    images: int = 0
    agreed: int = 0
    dropped: int = 0
    champion_times: tuple[int, ...] = ()
    challenger_times: tuple[int, ...] = ()
    round_trips: tuple[int, ...] = ()
    stopped: str = ""


class TrialTable(Part):
    """What came of a trial in one mode.

    Attributes:
        mode: The mode.
        share: The share of requests that were to be tried.
        seconds: How long it took.
        replicas: The champion's replicas that took part, sorted.
        requests: As in `TrialFigures`, of all of them together; so are the next ones.
        tried: Requests that the challenger was sent.
        images: Images that both have answered.
        dropped: Requests that were not compared.
        checks: Every figure beside the champion's.
        faults: What was found against the challenger.
    """

    mode: Mode
    share: float
    seconds: float
    replicas: tuple[str, ...] = ()
    requests: int = 0
    tried: int = 0
    images: int = 0
    dropped: int = 0
    checks: tuple[GateCheck, ...] = ()
    faults: tuple[str, ...] = ()


class RolloutTable(Judgement):
    """The content of `rollout.json`: what trials have said of a version.

    Attributes:
        trials: What came of each mode, in the order in which they were done.
    """

    CALLED: ClassVar[str] = "table of a roll-out"
    BY: ClassVar[str] = "canary"

    trials: tuple[TrialTable, ...] = ()
