"""The asynchronous mode: a good candidate is served while others are still trained.

    plan ──► ingest ──► (train ──► offer) × candidates ──► select ──► judge ──► publish
    offer: judge ──► select ──► publish, where the best so far is good enough and not served yet

The steps are those of `workflows.pipeline`, with the same keys; `judge` alone is of this mode. In
the end it names the version that stays, and what is published then is a look at what is served.
"""

from __future__ import annotations

from hera.workflows import DAG, Container, Parameter, Task

from mlpipeline.plan.pipeline import GATE, SELECT, TRAIN
from mlpipeline.store.layout import CANDIDATES, SELECTIONS
from workflows.pipeline import (
    MEMO,
    OF_RUN,
    OUTPUTS,
    RUN_OPTIONS,
    add_selection,
    add_steps,
    after,
    begin,
    mutex,
    ref,
    step,
)


def add_templates() -> None:
    """Add all templates to the workflow whose context this is called in."""
    steps = add_steps()
    name = ref("inputs.parameters.name")
    judge, judge_last = _judge("judge"), _judge("judge-last", "--last")

    # One after the other: each is judged by what the one before has published.
    with DAG(
        name="offer", inputs=[Parameter(name="name")], synchronization=mutex(f"offer-{name}")
    ) as offer:
        judging = Task(name="judge", template=judge)
        among = judging.get_parameter("among")
        replaces = ref("tasks.judge.outputs.parameters.replaces")
        Task(
            name=SELECT.name,
            template=steps.select,
            arguments={"key": judging.get_parameter("key"), "name": name, "among": among},
            depends="judge",
            when=f"{replaces} == true",
        )
        Task(
            name="publish",
            template=steps.publish,
            # Held back, it is no failure: a better one may come.
            arguments={"name": name, "among": among, "last": "false"},
            depends=after(GATE),
            when=f"{replaces} == true",
        )

    with DAG(
        name="candidate", inputs=[Parameter(name=n) for n in ("candidate", "key", "name")]
    ) as candidate:
        Task(
            name=TRAIN.name,
            template=steps.train,
            arguments={n: ref(f"inputs.parameters.{n}") for n in ("candidate", "key")},
        )
        Task(name="offer", template=offer, arguments={"name": name}, depends=TRAIN.name)

    with DAG(name="asynchronous"):
        planning = begin(steps)
        Task(
            name="candidate",
            template=candidate,
            with_param=planning.get_parameter("trainings"),
            arguments={
                "candidate": ref("item.candidate"),
                "key": ref("item.key"),
                "name": planning.get_parameter("name"),
            },
            depends=after(TRAIN),
        )
        add_selection(steps, planning, train="candidate")
        settling = Task(name="judge", template=judge_last, depends=SELECT.name)
        Task(
            name="publish",
            template=steps.publish,
            arguments={
                "name": planning.get_parameter("name"),
                "among": settling.get_parameter("among"),
            },
            depends="judge",
        )


def _judge(name: str, *options: str) -> Container:
    """Return the step that says which candidates' selection is to be served."""
    return step(
        name,
        ["cluster", "judge", *RUN_OPTIONS, "--outputs", OUTPUTS, "--memo", MEMO, *options],
        outputs=["replaces", "among", "key"],
        reads=[OF_RUN, CANDIDATES, SELECTIONS],
        component="judge",
        account="pipeline",
        timeout="5m",
    )
