"""The workflow: the steps of `mlpipeline.plan.pipeline` as pods, in the same order, same keys.

    plan ──► ingest ──► train × candidates ──► select ──► publish
    publish: gate ──► canary ──► serve ──► verify
    record, whatever happened

A memoized step is found by its key alone; `plan` has Argo forget those whose artifact is gone.
What is current and what is served, another run may change at any time until this one's turn to
publish has come: so `gate` and `serve` are never answered from the memo, they look, and `serve`
forgets what is not true of `verify`.
https://argo-workflows.readthedocs.io/en/release-3.7/memoization/

What is memoized is a DAG of one task, and what is tried again is the pod in it. In one template the
two do not go together in Argo 3.7: the node of a hit has no attempts, so nothing after it is linked
to it and the workflow never ends; and with a mutex every miss calls itself a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hera.workflows import DAG, Container, Parameter, Resources, RetryStrategy, Task
from hera.workflows import models as m

from mlpipeline.plan.commands import step_arguments
from mlpipeline.plan.permissions import OF_CLUSTER
from mlpipeline.plan.pipeline import (
    CANARY,
    GATE,
    INGEST,
    MODEL,
    SELECT,
    SERVE,
    TRAIN,
    VERIFY,
    Artifact,
    Step,
    needs_of,
)
from mlpipeline.store.layout import (
    ARTIFACTS,
    CANDIDATES,
    DATASETS,
    NO_REQUESTS,
    REQUESTS,
    RUNS,
    SELECTIONS,
    RunFolder,
)
from mlpipeline.store.signatures import SIGNING_KEY

IMAGE, PREDICTOR_IMAGE = "mlpipeline:0.2.0", "mlpipeline-predictor:0.2.0"
CONFIGURATION = Path(__file__).parents[1] / "configs" / "default.yaml"
# mlpipeline.runs.webhook reads them: not imported, because a workflow needs the plan alone.
WEBHOOK_URL, WEBHOOK_FORM = "MLPIPELINE_WEBHOOK_URL", "MLPIPELINE_WEBHOOK_FORM"
MEMO = "memo"  # the ConfigMap of manifests/base/memo.yaml
LIMITS = "limits"  # that of limits.yaml beside it
_PLAN = "plan"  # the step before all others, of the workflow alone

WORKSPACE, OUTPUTS, _TEMPLATES = "/workspace", "/tmp/outputs", "/etc/mlpipeline/templates"


def ref(name: str) -> str:
    """Return what Argo replaces by a value, such as `inputs.parameters.key`."""
    return f"{{{{{name}}}}}"


_CONFIG = f"{WORKSPACE}/{RUNS}/{ref('workflow.name')}/config.yaml"
_RUN: dict[str, str] = {"config": _CONFIG, "workspace": WORKSPACE}
_FORCED = str(RunFolder(Path(WORKSPACE, RUNS, ref("workflow.name"))).forced)
RUN_OPTIONS = ["--config", _CONFIG, "--workspace", WORKSPACE]
OWNER = ["--workflow", f"{ref('workflow.name')}/{ref('workflow.uid')}"]
# Memory requested, and the limit: of what only talks to the API, and of what imports TensorFlow.
_API_MEMORY, TENSORFLOW_MEMORY = ("128Mi", "512Mi"), ("512Mi", "2Gi")
_MANIFESTS = ["--templates", _TEMPLATES, "--image", ref("workflow.parameters.image")]
PENDING = ["--pending-seconds", ref("workflow.parameters.pending-seconds")]
STARTS_PODS = [*_MANIFESTS, *PENDING]
_QUEUED = [
    f"--queue={ref('workflow.parameters.queue')}",
    f"--priority={ref('workflow.parameters.priority')}",
    *("--queue-seconds", ref("workflow.parameters.queue-seconds")),
]
# What pods see of the workspace, by paths below its root; "" is all of it.
ALL = ""
OF_RUN = f"{RUNS}/{ref('workflow.name')}"
# What a template need not be given. Selection is among all candidates that could be trained, and
# what is published is the last thing that the run publishes.
_OPTIONAL = {"among": "", "last": "true"}
_LATER = {"canary": "false"}
_AMONG, _NAME = ref("inputs.parameters.among"), ref("inputs.parameters.name")
_VERSION = ref("inputs.parameters.version")

VOLUMES = [
    m.Volume(
        name="workspace",
        persistent_volume_claim=m.PersistentVolumeClaimVolumeSource(claim_name="workspace"),
    ),
    m.Volume(name="templates", config_map=m.ConfigMapVolumeSource(name="templates")),
    m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource()),
]

_TEMPLATES_MOUNT = m.VolumeMount(name="templates", mount_path=_TEMPLATES, read_only=True)
# Where MLflow's server is: manifests/components/mlflow says so. Without it there is no variable.
TRACKING = m.EnvVar(
    name="MLFLOW_TRACKING_URI",
    value_from=m.EnvVarSource(
        config_map_key_ref=m.ConfigMapKeySelector(name="tracking", key="uri", optional=True)
    ),
)

# Whom `record` tells how a run has ended: a Secret that people make if they want it. Its URL is a
# credential, so no step has it that runs the code of a user.
_WEBHOOK = [
    m.EnvVar(
        name=name,
        value_from=m.EnvVarSource(
            secret_key_ref=m.SecretKeySelector(name="webhook", key=key, optional=True)
        ),
    )
    for name, key in ((WEBHOOK_URL, "url"), (WEBHOOK_FORM, "form"))
]

# The gate signs what it lets pass, where there is this Secret. It runs nobody's code but ours.
_SIGNING = m.EnvVar(
    name=SIGNING_KEY,
    value_from=m.EnvVarSource(
        secret_key_ref=m.SecretKeySelector(name="signing-key", key="pem", optional=True)
    ),
)

# Whose code a configuration may name: manifests/base/plugins.yaml. Without that no pod starts.
_PLUGINS = m.EnvVar(
    name=OF_CLUSTER,
    value_from=m.EnvVarSource(
        config_map_key_ref=m.ConfigMapKeySelector(name="plugins", key="allowed")
    ),
)

# A lost pod, a signal, an eviction is tried again; an error of ours (status 1 to 127) is final: the
# same rule as a TFJob's `restartPolicy: ExitCode`. A pod whose time is up is final, too: its image
# cannot be pulled, for one.
_RETRY = RetryStrategy(
    limit=3,
    retry_policy="Always",
    expression="!(lastRetry.message contains 'longer than the specified deadline') "
    "&& (lastRetry.status == 'Error' "
    "|| asInt(lastRetry.exitCode) < 0 || asInt(lastRetry.exitCode) > 127)",
    backoff=m.Backoff(duration="5s", factor=m.IntOrString(2)),
)


def arguments() -> list[Parameter]:
    """Return the parameters of a run: `argo submit workflows/pipeline.yaml -p workers=3`."""
    return [
        Parameter(
            name="image",
            value=IMAGE,
            description="The image of every step and worker, and of replicas with TensorFlow.",
        ),
        Parameter(
            name="predictor-image",
            value=PREDICTOR_IMAGE,
            description="The image of replicas without TensorFlow; empty for the other image.",
        ),
        Parameter(
            name="configuration",
            value=CONFIGURATION.read_text(encoding="utf-8"),
            description='A whole file: -p "configuration=$(cat my.yaml)". The others change it.',
        ),
        Parameter(
            name="model", value="", description="The model's name; empty for the configured one."
        ),
        Parameter(
            name="candidates",
            value="",
            description="Names of those to train, separated by commas; empty: all.",
        ),
        Parameter(
            name="workers",
            value="",
            description="Workers of each training, a number; empty: as configured.",
        ),
        Parameter(
            name="replicas",
            value="",
            description="Replicas that serve, a number; empty: as configured.",
        ),
        Parameter(
            name="pending-seconds",
            value="300",
            description="How long a worker or a replica may take to start: place, image, volumes.",
        ),
        Parameter(
            name="force",
            value="",
            description="Why the result is to be served whatever the gate says; empty: it is not.",
        ),
        Parameter(
            name="by", value="", description="Who submits it, for the record of what is forced."
        ),
        # The three of manifests/components/kueue; without it nothing comes of them.
        Parameter(name="queue", value="", description="Where training waits; empty for team-a."),
        Parameter(
            name="priority",
            value="",
            description="The priority of training: urgent, background or empty.",
        ),
        Parameter(
            name="queue-seconds", value="10800", description="How long training may wait for room."
        ),
    ]


@dataclass(frozen=True)
class Steps:
    """The templates that a workflow's graph is made of."""

    plan: Container
    ingest: DAG
    train: DAG
    select: DAG
    publish: DAG


def add_steps() -> Steps:
    """Add the templates of all steps to the workflow whose context this is called in."""
    plan = step(
        _PLAN,
        [
            *("cluster", "plan", *RUN_OPTIONS, "--outputs", OUTPUTS, "--memo", MEMO),
            # It reads the parameters from the workflow: what a user has written is no argument, in
            # which Argo would evaluate it.
            *OWNER,
        ],
        outputs=["name", "ingest-key", "ingest-memo", "select-key", "trainings"],
        # It makes the folders that others mount. Like `record`, it runs nobody's code but ours.
        writes=[ALL],
        account="pipeline",
        timeout="5m",
    )
    ingest = _memoized(
        INGEST.name,
        step_arguments(INGEST.name, **_RUN),
        inputs=["key", "memo"],
        # It is the key, and with it the limits that a run fails by, where there are any.
        key=ref("inputs.parameters.memo"),
        lock=ref("inputs.parameters.key"),
        reads=[ALL, NO_REQUESTS],  # the data may lie anywhere, and be read by anybody's code
        writes=_places(INGEST.publishes),
        memory=TENSORFLOW_MEMORY,
        timeout="30m",
    )
    train = _memoized(
        TRAIN.name,
        [
            *("cluster", "train", "--candidate", ref("inputs.parameters.candidate"), *RUN_OPTIONS),
            *("--outputs", OUTPUTS, *STARTS_PODS, *_QUEUED, *OWNER),
        ],
        inputs=["candidate", "key"],
        outputs=["metrics"],
        # To see where the files are that the code names: its workers mount them.
        reads=[ALL, NO_REQUESTS],
        writes=_places(TRAIN.publishes),
        account="pipeline",
        limit="trainings",
        # The wait for its turn, queue-seconds, training.deadline_seconds and the start of its pods.
        timeout="300m",
    )
    select = _memoized(
        SELECT.name,
        step_arguments(SELECT.name, **_RUN, among=_AMONG),
        inputs=["key", "name", "among"],
        reads=[OF_RUN, *_places(SELECT.reads)],
        writes=_places(SELECT.publishes),
        memory=TENSORFLOW_MEMORY,
        timeout="20m",
    )
    # Not memoized: what is current may be another version by now. Where nothing has changed, or
    # nothing is asked of it, it measures nothing. What it holds back it writes into the model's
    # history at once: a rollback is not to go there while the run goes on.
    gate = step(
        GATE.name,
        [
            *step_arguments(
                GATE.name, **_RUN, among=_AMONG, forced=_FORCED, run=ref("workflow.name")
            ),
            *("--outputs", OUTPUTS),
        ],
        inputs=["name", "among"],
        outputs=["version", "verdict", "said", "table", "forced", "canary"],
        environment=[_SIGNING],
        reads=[OF_RUN, CANDIDATES, DATASETS],
        writes=_places([MODEL]),
        memory=TENSORFLOW_MEMORY,
        timeout="20m",
    )
    refuse = step(
        "refuse",
        ["step", "refuse", f"--by={ref('inputs.parameters.by')}"],
        inputs=["by"],
        timeout="5m",
    )
    canary = _canary()
    serve = step(
        SERVE.name,
        [
            *("cluster", "serve", *RUN_OPTIONS, f"--version={_VERSION}", "--outputs", OUTPUTS),
            f"--predictor-image={ref('workflow.parameters.predictor-image')}",
            *("--memo", MEMO, *STARTS_PODS, *OWNER),
        ],
        inputs=["name", "version"],
        outputs=["version", "revision", "replicas", "images", "rolled"],
        reads=[OF_RUN, *_places(SERVE.reads)],
        account="pipeline",
        timeout="20m",
    )
    undo = step(
        "undo",
        ["cluster", "undo", *RUN_OPTIONS, *PENDING],
        inputs=["name"],
        reads=[OF_RUN, *_places(SERVE.reads)],
        account="pipeline",
        timeout="20m",
    )
    host = f"{_NAME}-predictor.{ref('workflow.namespace')}.svc"
    verify = _memoized(
        VERIFY.name,
        [
            *step_arguments(
                VERIFY.name,
                **_RUN,
                version=_VERSION,
                output=f"{OUTPUTS}/figures",
                forced=ref("inputs.parameters.forced"),
                run=ref("workflow.name"),
            ),
            *("--url", f"http://{host}", "--grpc", f"{host}:8081"),
            "--autoscaled",
        ],
        inputs=["name", "version", "revision", "images", "forced"],
        outputs=["figures"],
        # What has been verified is this very state of the service: it has another revision after
        # any change, and after it was deleted and made again. And so many images were sent to it.
        key=f"{VERIFY.name}-{ref('inputs.parameters.revision')}-{ref('inputs.parameters.images')}",
        reads=[OF_RUN, DATASETS, SELECTIONS],
        writes=_places([MODEL]),  # which version is current
        memory=TENSORFLOW_MEMORY,
        # It has a deadline of its own, which follows from the size of the data.
        timeout="120m",
    )
    # One run at a time publishes a model: what is verified is what this run has put there, and the
    # gate has compared it with what it takes the place of.
    with DAG(
        name="publish",
        inputs=_inputs(["name", "among", "last"]),
        synchronization=mutex(f"publish-{_NAME}"),
    ) as publish:
        gating = Task(name=GATE.name, template=gate, arguments={"name": _NAME, "among": _AMONG})
        verdict = ref(f"tasks.{GATE.name}.outputs.parameters.verdict")
        tried = ref(f"tasks.{CANARY.name}.outputs.parameters.verdict")
        Task(
            name=CANARY.name,
            template=canary,
            arguments={
                "name": _NAME,
                "version": gating.get_parameter("version"),
                "wanted": gating.get_parameter("canary"),
            },
            depends=after(CANARY),
        )
        serving = Task(
            name=SERVE.name,
            template=serve,
            arguments={"name": _NAME, "version": gating.get_parameter("version")},
            depends=after(SERVE),
            when=f"{verdict} == passed && {tried} == passed",
        )
        Task(
            name=VERIFY.name,
            template=verify,
            arguments={
                "name": _NAME,
                "forced": gating.get_parameter("forced"),
                **{n: serving.get_parameter(n) for n in ("version", "revision", "images")},
            },
            # A task that is named alone may also have been skipped: `when` has left `serve` out.
            # Argo looks at `depends` before it puts outputs in, so what was omitted by it needs
            # none. Otherwise it would wait for those of `serve` for ever: argo-workflows#15837.
            depends=f"{after(VERIFY)}.Succeeded",
        )
        last = ref("inputs.parameters.last")
        # Beside `serve`, and by a pod of its own, because the gate has to succeed: of a task that
        # failed Argo has no outputs, and the table would be gone. Where the gate itself fails, both
        # are omitted, and their `when` is never looked at.
        for judge, said in ((GATE, verdict), (CANARY, tried)):
            Task(
                name=f"refuse-by-{judge.name}",
                template=refuse,
                arguments={"by": judge.name},
                depends=judge.name,
                when=f"{said} == refused && {last} == true",
            )
        Task(
            name="undo",
            template=undo,
            arguments={"name": _NAME},
            depends=f"{VERIFY.name}.Failed || {VERIFY.name}.Errored",
        )

    step(
        "record",
        ["cluster", "record", "--workspace", WORKSPACE, *OWNER],
        environment=[TRACKING, *_WEBHOOK],
        reads=ARTIFACTS,
        writes=[ALL],  # the run's folder, and the report of the latest run
        account="pipeline",
        memory=("256Mi", "1Gi"),
        timeout="5m",
    )
    return Steps(plan, ingest, train, select, publish)


def _canary() -> DAG:
    """Return the trial of a version: a DAG, which says that it has passed where none is wanted.

    Of a task that was skipped Argo has no outputs, and what asks for them would wait for ever.
    https://argo-workflows.readthedocs.io/en/release-3.7/conditional-artifacts-parameters/
    """
    pod = step(
        f"{CANARY.name}-pod",
        [
            *("cluster", "canary", *RUN_OPTIONS, f"--version={_VERSION}", "--outputs", OUTPUTS),
            f"--predictor-image={ref('workflow.parameters.predictor-image')}",
            *(*STARTS_PODS, *OWNER),
        ],
        inputs=["name", "version"],
        outputs=["verdict", "said", "table"],
        reads=[OF_RUN],
        # The order to the replicas lies beside the versions; what is held back, in their history.
        writes=_places(CANARY.reads),
        component=CANARY.name,
        account="pipeline",
        # Both trials may take an hour each, and the replica has to start.
        timeout="180m",
    )
    inner = f"{CANARY.name}-pod"
    otherwise = {"verdict": "passed", "said": "", "table": ""}
    with DAG(
        name=CANARY.name,
        inputs=_inputs(["name", "version", "wanted"]),
        outputs=[
            Parameter(
                name=name,
                value_from=m.ValueFrom(
                    expression=f"tasks['{inner}'].status == 'Succeeded' ? "
                    f"tasks['{inner}'].outputs.parameters.{name} : '{value}'"
                ),
            )
            for name, value in otherwise.items()
        ],
    ) as canary:
        Task(
            name=inner,
            template=pod,
            arguments={n: ref(f"inputs.parameters.{n}") for n in ("name", "version")},
            when=f"{ref('inputs.parameters.wanted')} == true",
        )
    return canary


def add_templates() -> None:
    """Add all templates to the workflow whose context this is called in."""
    steps = add_steps()
    with DAG(name="pipeline"):
        planning = begin(steps)
        Task(
            name=TRAIN.name,
            template=steps.train,
            with_param=planning.get_parameter("trainings"),
            arguments={n: ref(f"item.{n}") for n in ("candidate", "key")},
            depends=after(TRAIN),
        )
        add_selection(steps, planning)
        Task(
            name="publish",
            template=steps.publish,
            arguments={"name": planning.get_parameter("name")},
            depends=after(GATE),
        )


def begin(steps: Steps) -> Task:
    """Add `plan` and `ingest`, the first tasks of a graph; return the one that plans."""
    planning = Task(name=_PLAN, template=steps.plan)
    Task(
        name=INGEST.name,
        template=steps.ingest,
        arguments={
            "key": planning.get_parameter("ingest-key"),
            "memo": planning.get_parameter("ingest-memo"),
        },
        depends=after(INGEST),
    )
    return planning


def add_selection(steps: Steps, planning: Task, **called: str) -> None:
    """Add `select`, the fan-in: it goes on without a candidate that cannot be trained.

    Args:
        steps: The templates.
        planning: The task that plans.
        **called: What a step's task is called in this graph, if not as the step.
    """
    Task(
        name=SELECT.name,
        template=steps.select,
        arguments={
            "key": planning.get_parameter("select-key"),
            "name": planning.get_parameter("name"),
        },
        depends=after(SELECT, **called),
    )


def after(step: Step, **called: str) -> str:
    """Return what a step waits for, drawn from the plan, in Argo's terms.

    Args:
        step: The step.
        **called: What a step's task is called in this graph, if not as the step.
    """
    # A step that is done for each candidate may fail for some of them.
    needed = [
        called.get(one.name, one.name) + (".AnySucceeded" if one.per == "candidate" else "")
        for one in needs_of(step)
    ]
    return " && ".join(needed) or _PLAN


def _inputs(names: Sequence[str]) -> list[Parameter]:
    return [Parameter(name=name, value=_OPTIONAL.get(name)) for name in names]


def step(
    name: str,
    args: list[str],
    *,
    timeout: str,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
    component: str = "",
    environment: Sequence[m.EnvVar] = (),
    account: str = "step",
    memory: tuple[str, str] = _API_MEMORY,
    limit: str = "",
) -> Container:
    """Return the template of a step.

    Args:
        name: The template's name.
        args: The arguments of `python -m mlpipeline`.
        timeout: The time that its pod may take, with the wait to be started.
        inputs: Names of its parameters.
        outputs: Names of the files that it writes its own parameters to.
        reads: What it sees of the workspace, by paths below its root, and cannot change.
        writes: What it may write to, likewise.
        component: The step's name in `mlpipeline.plan.pipeline`, if that is not the template's.
        environment: Its environment variables, beside the one that all have.
        account: The service account; that of `step` has no token in its pods.
        memory: The memory requested, and the limit.
        limit: The key of `LIMITS` that says how many of it run at once, over all workflows.
    """
    return Container(
        name=name,
        image=ref("workflow.parameters.image"),
        # Argo asks the registry for an image's entrypoint where there is no command.
        command=["python", "-m", "mlpipeline"],
        args=args,
        inputs=_inputs(inputs),
        outputs=[_output(name) for name in outputs],
        retry_strategy=_RETRY,
        synchronization=_semaphore(limit) if limit else None,
        timeout=timeout,
        service_account_name=account,
        automount_service_account_token=account != "step",
        labels={"app.kubernetes.io/component": component or name},
        # The end of its output becomes the message of the node, which people see first.
        termination_message_policy="FallbackToLogsOnError",
        env=[_PLUGINS, *environment],
        security_context=m.SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=m.Capabilities(drop=["ALL"]),
        ),
        resources=Resources(cpu_request="50m", memory_request=memory[0], memory_limit=memory[1]),
        volume_mounts=[
            *(_mount(place, read_only=True) for place in reads),
            *(_mount(place) for place in writes),
            *([_TEMPLATES_MOUNT] if _TEMPLATES in args else []),
            m.VolumeMount(name="tmp", mount_path="/tmp"),
        ],
    )


def _output(name: str) -> Parameter:
    """Return an output parameter of a step.

    Of one that was added later, what an image of an earlier release means that does not write it:
    `retrain` runs the image of the run that has published a model.
    """
    default = _LATER.get(name)
    return Parameter(name=name, value_from=m.ValueFrom(path=f"{OUTPUTS}/{name}", default=default))


def _mount(place: str, *, read_only: bool | None = None) -> m.VolumeMount:
    """Mount a folder of the workspace; of two of which one holds the other, each is as it says.

    The empty one is mounted over the requests. The step `plan` has made it: where a folder is
    missing, Kubernetes makes it, and it is root's.
    """
    path = f"{WORKSPACE}/{REQUESTS if place == NO_REQUESTS else place}".rstrip("/")
    return m.VolumeMount(
        name="workspace", mount_path=path, sub_path=place or None, read_only=read_only
    )


def _places(artifacts: Sequence[Artifact]) -> list[str]:
    """Where artifacts are, below the workspace's root: of models, those of the one model."""
    return [str(artifact.place(_NAME)) for artifact in artifacts]


def _memoized(
    name: str,
    args: list[str],
    *,
    inputs: Sequence[str] = ("key",),
    outputs: Sequence[str] = (),
    key: str = ref("inputs.parameters.key"),
    lock: str = "",
    **options: Any,
) -> DAG:
    """Return a step that is answered from the memo if it can be; `options` are those of `step`.

    Its inputs are those of its pod, too, by the same names. One of a kind runs at a time: of a
    `lock`, or else of a key of the memo.
    """
    pod = step(f"{name}-pod", args, inputs=inputs, outputs=outputs, component=name, **options)
    with DAG(
        name=name,
        inputs=_inputs(inputs),
        outputs=[
            Parameter(
                name=n,
                value_from=m.ValueFrom(parameter=ref(f"tasks.{name}.outputs.parameters.{n}")),
            )
            for n in outputs
        ],
        memoize=m.Memoize(
            key=key, max_age="", cache=m.Cache(config_map=m.LocalObjectReference(name=MEMO))
        ),
        # Two runs that need the same at the same moment: the second waits, then finds it.
        synchronization=mutex(lock or key),
    ) as memoized:
        Task(
            name=name,
            template=pod,
            arguments={n: ref(f"inputs.parameters.{n}") for n in inputs},
        )
    return memoized


def mutex(name: str) -> m.Synchronization:
    """Return what lets one of all that have it go on at a time, in all workflows."""
    return m.Synchronization(mutexes=[m.Mutex(name=name)])


def _semaphore(limit: str) -> m.Synchronization:
    reference = m.ConfigMapKeySelector(name=LIMITS, key=limit)
    return m.Synchronization(semaphores=[m.SemaphoreRef(config_map_key_ref=reference)])
