"""The configuration: what a YAML file may say, its defaults, and a check that reports all problems.

Every section is frozen and rejects keys that it does not know. What a step is given is what its
cache key is made of, so a field belongs to the section of the step whose result it changes.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import search as searching
from mlpipeline.plan import yaml_text
from mlpipeline.plan.search import Search
from mlpipeline.plan.section import Section
from mlpipeline.store import artifacts

# A DNS label, because it becomes part of a URL and the name of Kubernetes objects.
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$", max_length=40)]

# Digests as the workspace's files have them in their names.
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

# KServe's own rule: it becomes the name of its objects, and begins with a letter. With `isvc.` and
# `-transformer` around it, KServe makes a label of it, which has 63 characters at most.
ModelName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=40)]


# More is a slip of the hand: an image of 8,192 by 8,192 pixels has 200 MB in memory.
Side = Annotated[int, Field(ge=1, le=8_192)]

Share = Annotated[float, Field(ge=0, le=1)]

SCHEMES = ("tfds", "folder", "csv", "npz", "idx")
"""What a data set's name begins with, before a colon, where it says where the data lies."""


def module_of(reference: str) -> str | None:
    """Return the module that `package.module:function` names; None for any other reference."""
    module, separator, _ = reference.partition(":")
    return module if separator and module not in SCHEMES else None


class Data(Section):
    """What to ingest. The split and the shards are a function of these values alone."""

    dataset: str = "fashion_mnist"
    """`fashion_mnist`, `synthetic` (drawn, for tests), `folder:PATH`, `csv:PATH`, `npz:PATH`,
    `idx:PATH`, `tfds:NAME`, or `package.module:function` of your own."""
    source: Literal["auto", "tfds", "download", "idx", "debian"] = "auto"
    """Where to get Fashion-MNIST from; `auto` tries the others, in this order. Other data sets have
    `auto` only."""
    validation: PositiveInt | None = None
    """Images cut from the training split, stratified by class; none: 5,000, or a tenth of the
    training images where these are fewer."""
    shards: PositiveInt = 8
    """TFRecord files of the training split: a multiple of the workers divides the work evenly."""
    seed: NonNegativeInt = 17
    """Random seed of the split."""
    size: tuple[Side, Side] | None = None
    """Height and width that every image gets, in pixels; none: as the data set has it."""
    channels: Literal[1, 3] | None = None
    """1 makes images grey, 3 makes them RGB; none: as the data set has it."""
    fit: Literal["crop", "pad", "stretch"] | None = None
    """What becomes of a picture of other proportions: `crop` takes its middle, `pad` keeps all of
    it and continues the colour of its border, `stretch`, which none means, changes its proportions.
    """
    unreadable: Literal["skip", "fail"] = "fail"
    """What is done with files that are no images: `fail` names the first ten, `skip` leaves them
    out and says so in the card."""
    revision: str | None = None
    """Which state of the data this is, where it changes under one name: another is read anew."""
    feedback: Digest | None = None
    """Snapshot of the corrected labels to join; a run takes all of its model's until then."""
    files: tuple[str, ...] | None = None
    """Patterns of the files that your own function reads, where they are not those which its code
    names: the data is ingested anew when one of them has changed. `[]` for none."""
    files_digest: Digest | None = None
    """What these files were like when the run began; every run writes it for its steps."""


Expectation = Literal[
    "balance",
    "blank",
    "duplicates",
    "leakage",
    "contradictions",
    "class_drift",
    "pixel_drift",
]


class Expectations(Section):
    """What the images should be like: part of no key.

    Ingestion measures it and says what is not met; the run fails where that is asked for. Of the
    splits, the worst one counts. Without a limit nothing is said.
    """

    balance: Share | None = 0.1
    """The least that a class may have in any split, where 1 is what all would have if they had the
    same."""
    blank: Share | None = 0.01
    """The largest share of a split's images that may be all of one colour."""
    duplicates: Share | None = 0.01
    """The largest share of a split's images that may equal an earlier one of it."""
    leakage: Share | None = 0.01
    """The largest share of validation that may be in train as well, and of test that may be in
    either."""
    contradictions: Share | None = 0.01
    """The largest share of a split's images that may equal one of another class, in whatever split.
    """
    class_drift: NonNegativeFloat | None = 0.1
    """The largest population stability index of the training images by class, against the data set
    that the model's current version was made from."""
    pixel_drift: Share | None = 0.1
    """The largest Kolmogorov-Smirnov distance of the training images' means, and of their
    contrasts, against the same."""
    fail: tuple[Expectation, ...] = ()
    """Those that a run fails by; of the others it warns."""
    against: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]+$")] | None = None
    """The key of the data set that drift is measured against; none: that of the version that is
    current when a run begins, which every run writes for its steps."""


class Recipe(Section):
    """How a candidate is trained."""

    epochs: PositiveInt = 8
    """Passes over the training split."""
    batch_size: PositiveInt = 128
    """Images in a global batch, over all workers; a multiple of `data.shards`."""
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    """Keras's optimizer; `sgd` has Nesterov momentum, and `muon` is `sgd` whose updates of the
    kernels of convolutions are made orthogonal: a third fewer epochs for the same accuracy."""
    learning_rate: PositiveFloat = 1e-3
    """Constant, or the peak of the schedule."""
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    """How the learning rate changes: not at all, or up to its peak and down again."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of each weight that a step takes away, times the learning rate."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target's probability that is spread over all classes."""
    flip: bool = False
    """Mirror training images left to right, each in every other epoch."""
    average_flip: bool = False
    """Let the exported model average an image's and its mirror image's probabilities. It is a
    little more accurate, and takes twice the work of every prediction. Epochs before the last are
    validated without it."""
    average_shift: NonNegativeInt = 0
    """Let it average also over the image moved by so many pixels, up and to the left, and down and
    to the right: three times the work."""
    shift: NonNegativeInt = 0
    """Move training images by up to so many pixels in each direction."""
    erase: NonNegativeInt = 0
    """Erase a square of up to so many pixels from training images."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights that is exported; 0 for none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; weights are float32. `auto` is bfloat16 where the processor has it."""


class Candidate(Recipe):
    """One model to train: its architecture, and where its recipe differs from the common one."""

    model: str
    """`cnn`, `batch_norm`, `dropout`, `residual`, `book_cnn`, or `package.module:function` of your
    own."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the model's function."""
    files: tuple[str, ...] | None = None
    """Patterns of the files that your own function reads, as `data.files`."""
    files_digest: Digest | None = None
    """What these files were like when the run began; every run writes it for its steps."""


class Training(Section):
    """How training is carried out: not what a candidate *is*, so not part of its key."""

    strategy: Literal["multi_worker_mirrored", "parameter_server", "single"] = (
        "multi_worker_mirrored"
    )
    """`parameter_server` updates asynchronously, with another result: it is part of the key."""
    workers: PositiveInt = 2
    """Processes, or pods, that train one candidate together."""
    parameter_servers: PositiveInt = 1
    """Processes that hold the weights, with strategy `parameter_server`."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where decoded shards are kept after the first epoch; strategy `parameter_server` keeps none,
    because any worker may get any shard."""
    communication: Literal["auto", "ring", "nccl"] = "auto"
    """What sums the gradients of all workers: `auto` is NCCL between GPUs, a ring otherwise."""
    pack_bytes: NonNegativeInt = 0
    """Sum gradients in packs of about so many bytes, each sent while the next is being computed;
    0 sums all at once, which is the quickest for small models."""
    checkpoint_steps: PositiveInt = 200
    """A worker that dies costs at most so many steps."""
    peer_timeout_seconds: PositiveInt = 120
    """How long a worker waits for the others, at the start and at every step."""
    deadline_seconds: PositiveInt = 3_600
    """How long one candidate may take, over all attempts."""
    attempts: PositiveInt = 3
    """How often the workers of one candidate are started before it counts as failed."""
    parallel: PositiveInt = 1
    """Candidates that are trained at once on this machine; they share its processors fairly. In a
    cluster `manifests/base/limits.yaml` is the limit, over all runs."""


class Asynchronous(Section):
    """When the asynchronous mode publishes: not what a step makes, so not part of any key."""

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.85
    """Validation accuracy from which on a candidate is served while others are still trained."""


EngineChoice = Literal["auto", "litert", "tensorflow"]
Precision = Literal["float32", "int8", "auto"]


class RequestLogging(Section):
    """A sample of what the model is asked and says, written into the workspace: part of no key."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images that are kept, with what was said of them; 0 keeps none. They may be
    personal data: docs/how-to/monitor.md."""
    images_per_hour: PositiveInt = 3_600
    """The most that one replica keeps, evenly: at once no more than a sixtieth of it."""
    bytes: PositiveInt = 256 * 2**20
    """The most that the files of a model may have; the oldest ones are removed."""


INBOX = "inbox"
"""What `serving.feedback` calls the inbox of the workspace."""

# It becomes part of a page's Content-Security-Policy: nothing that would mean something there.
_FEEDBACK = rf"^({INBOX}|(https?://[0-9A-Za-z._:\[\]-]+)?(/[0-9A-Za-z._~%-]+)*/?)$"


class Serving(Section):
    """How the model is served: of this only `engine` and `precision` are in a key, selection's."""

    replicas: PositiveInt = 2
    """Copies of the model that share the requests."""
    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z._:%-]+$")] = "127.0.0.1"
    """The address that replicas listen on: IPv4, IPv6 without brackets, or a host's name."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    """The port of REST, V1 and V2."""
    grpc_port: Annotated[int, Field(ge=1, le=65_535)] = 8081
    """The port of gRPC, V2."""
    ready_timeout_seconds: PositiveInt = 120
    """How long all replicas may take to load the model and answer."""
    engine: EngineChoice = "auto"
    """What computes the answers: `auto` is LiteRT, or TensorFlow for a model that LiteRT cannot be
    made of; with `litert` such a model is an error. `tensorflow` serves the SavedModel itself, to
    compare for example. It is part of the key of selection, which measures what is served."""
    precision: Precision = "float32"
    """`int8` serves a model of 8-bit integers, unless it is wrong too often: its validation
    accuracy may fall by 0.1 points, and 99 % of the classes must be the same. `auto` does so only
    where it is faster, too. It is part of the key of selection, which makes and measures it."""
    metrics: bool = True
    """Whether `/metrics` tells of the model as well: what it says, and what it is asked. KServe's
    own metrics, of requests, are there anyway."""
    log: RequestLogging = RequestLogging()
    """A sample of requests, for `mlpipeline drift` and for people who label."""
    page: bool = True
    """Whether `/` is a page that tries the model in a browser: docs/how-to/try.md. It shows a test
    image of each class."""
    feedback: Annotated[str, Field(pattern=_FEEDBACK)] = ""
    """Where the page may post that an answer is wrong: `inbox` is the workspace's, on one machine;
    `/PATH` or `https://HOST/PATH` is whoever hands events on to Argo. Empty: nowhere."""

    @property
    def replica_names(self) -> list[str]:
        """What the replicas of the local backend call themselves in their answers."""
        return [f"replica-{index}" for index in range(self.replicas)]


class Gate(Section):
    """When a new version may take the place of the current one: part of no key.

    Nothing is measured where nothing is asked for.
    """

    worse_by: Annotated[float, Field(ge=0, le=1)] | None = None
    """By how much its validation accuracy may be below the current version's: 0.01 is a point. The
    current one is measured anew, on the same images."""
    class_worse_by: Annotated[float, Field(ge=0, le=1)] | None = None
    """By how much its share of hits in any one class may be below the current version's. What
    chance may do to so few images does not count."""
    minimum: Annotated[float, Field(ge=0, le=1)] | None = None
    """The least validation accuracy, also of the very first version."""
    milliseconds: PositiveFloat | None = None
    """The most that one image may take, in one call where the gate runs."""
    bytes: PositiveInt | None = None
    """The most that the files may have that are served."""
    incomparable: Literal["hold", "serve"] = "hold"
    """What is done where the current version has other classes, or takes images of another shape.
    One that is damaged or gone holds nothing back."""
    required: bool = False
    """Whether a run fails whose version is held back; otherwise it says what was kept."""

    @property
    def compares(self) -> bool:
        """Whether it asks for a comparison with the current version."""
        return self.worse_by is not None or self.class_worse_by is not None

    @property
    def asks(self) -> bool:
        """Whether it asks for anything."""
        limits = (self.minimum, self.milliseconds, self.bytes)
        return self.compares or any(limit is not None for limit in limits)


class Trial(Section):
    """How a new version is tried on requests, and what it must not be worse in."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the requests that it is sent: never more."""
    seconds: Annotated[float, Field(gt=0, le=3_600)] = 120.0
    """How long. What is clearly bad is ended earlier."""
    requests: PositiveInt = 20
    """How many requests it must have been sent by then; with fewer it was not tried."""
    errors: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The most that it may fail of these. The current version answers them in its place."""
    slower_by: Annotated[float, Field(ge=1)] | None = 2.0
    """How many times as long as the current version it may take, and 10 ms more, or 50 ms with the
    way to it: of both the time in which nine of ten requests are done. Null asks for nothing."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = 0.8
    """Share of the images of which both must say the same class. Null asks for nothing."""


class Canary(Trial):
    """A trial in which the new version answers."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the requests that it answers: never more."""


class Rollout(Section):
    """How a version that the gate lets pass is tried on real requests: part of no key.

    It is not tried where nothing is asked for, or nobody serves the current version.
    """

    shadow: Trial | None = None
    """First: it is sent copies of requests, and nobody sees its answers."""
    canary: Canary | None = None
    """Then: it answers a share of the requests."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How long it may take for a request; after that the current version answers."""
    untried: Literal["hold", "serve"] = "hold"
    """What is done with a version that too few requests came for."""
    required: bool = False
    """Whether a run fails whose version is held back; otherwise it says what was kept."""

    @property
    def trials(self) -> list[tuple[Literal["shadow", "canary"], Trial]]:
        """The trials that are asked for, in order, with their modes."""
        both: list[tuple[Literal["shadow", "canary"], Trial | None]] = [
            ("shadow", self.shadow),
            ("canary", self.canary),
        ]
        return [(mode, trial) for mode, trial in both if trial]


def _all_or_a_number(value: Any) -> Any:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"got {value!r}, expected `all` or a number of images from 1 on")


class Card(Section):
    """What people are told in the model's `card.md`: part of selection's key, if it is said."""

    licence: str = ""
    """The licence of the data; those of `fashion_mnist` and `synthetic` are known."""
    intended_use: str = ""
    """What the model is for, and what it is not for, as Markdown."""
    limits: str = ""
    """What is known of where it fails, as Markdown, beside what is measured."""


class Verify(Section):
    """What is sent to the served model and compared: part of the key of verification alone."""

    images: Annotated[
        int | Literal["all"],
        Field(json_schema_extra={"minimum": 1}),
        BeforeValidator(_all_or_a_number),
    ] = "all"
    """Test images that are sent by gRPC, `all` or so many. V1 and V2 as JSON and binary send a
    sample of these: 1,000, and of images above 67 kB as many as have 64 MB, at least 100."""


class Config(Section):
    """A model's name, the random seed, and the sections below."""

    name: ModelName
    """What the model is called in its URL."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 17  # NumPy takes no more
    """Random seed of every training."""
    data: Data = Data()
    """Which images, and how they are split and stored."""
    expectations: Expectations = Expectations()
    """What the images should be like, and which of it a run fails by."""
    recipe: Recipe = Recipe()
    """What candidates have in common, unless they say otherwise."""
    candidates: Annotated[dict[Label, Candidate], Field(min_length=1)]
    """The models to train, by name; a search may take their place."""
    search: dict[Label, Search] = Field(default_factory=dict)
    """Becomes candidates before the rest is checked; empty from then on."""
    training: Training = Training()
    """How many workers train a candidate, and by which strategy."""
    asynchronous: Asynchronous = Asynchronous()
    """When a first model is good enough to be served while others still train."""
    gate: Gate = Gate()
    """What a new version must not be worse in than the current one."""
    rollout: Rollout = Rollout()
    """How it is tried on real requests before it takes the place of the current one."""
    serving: Serving = Serving()
    """How many replicas answer, at which address."""
    card: Card = Card()
    """What the model's card says beside what is measured."""
    verify: Verify = Verify()
    """How much of the test split is sent to them before the version is current."""

    @model_validator(mode="before")
    @classmethod
    def _candidates_inherit_the_recipe(cls, raw: Any) -> Any:
        match raw:
            case {"recipe": dict(recipe), "candidates": dict(candidates)}:
                merged = {
                    # A misspelt key of the recipe is one problem, not one for each candidate.
                    name: {k: v for k, v in recipe.items() if k in Recipe.model_fields} | own
                    if isinstance(own, dict)
                    else own
                    for name, own in candidates.items()
                }
                return raw | {"candidates": merged}
        return raw

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        shards = self.data.shards
        problems = [
            f"candidates.{name}.batch_size is {c.batch_size}: expected a multiple of "
            f"data.shards ({shards}), because each shard gives an equal part of every batch"
            for name, c in self.candidates.items()
            if c.batch_size % shards
        ]
        problems += [
            f"search.{name}: expected that its trials are called like no other candidate"
            for name in self.search
        ]
        readers = [("data", self.data.dataset, self.data.files)]
        readers += [(f"candidates.{name}", c.model, c.files) for name, c in self.candidates.items()]
        problems += [
            f"{place}.files: expected a function of your own that reads them, got `{reference}`"
            for place, reference, files in readers
            if files is not None and module_of(reference) is None
        ]
        problems += [
            f"expectations.fail names {name}: expected a limit in expectations.{name}, got none"
            for name in self.expectations.fail
            if getattr(self.expectations, name) is None
        ]
        if self.training.workers > shards:
            problems.append(
                f"training.workers is {self.training.workers}: expected at most data.shards "
                f"({shards}), because each worker reads whole shards"
            )
        if self.training.strategy == "single" and self.training.workers != 1:
            problems.append(
                f"training.workers is {self.training.workers}: expected 1 with strategy `single`"
            )
        servers, strategy = self.training.parameter_servers, self.training.strategy
        if strategy != "parameter_server" and servers != 1:
            problems.append(
                f"training.parameter_servers is {servers}: expected strategy `parameter_server`, "
                f"got `{strategy}`, which has none"
            )
        if self.serving.port == self.serving.grpc_port:
            problems.append(f"serving.port and serving.grpc_port are both {self.serving.port}")
        if self.serving.engine == "tensorflow" and self.serving.precision != "float32":
            problems.append(
                f"serving.precision is {self.serving.precision}: expected float32 with "
                "serving.engine `tensorflow`, because 8-bit integers are LiteRT's"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def among(self, names: str) -> Config:
        """Return the configuration with some of its candidates only.

        Args:
            names: Their names, separated by commas; empty for all.

        Raises:
            ConfigurationError: There is no such candidate.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if unknown := [name for name in wanted if name not in self.candidates]:
            raise ConfigurationError(
                f"there are no candidates {', '.join(unknown)}",
                expected=f"some of {', '.join(self.candidates)}, separated by commas",
                remedy="add them to the configuration, or leave them out",
            )
        kept = {n: c for n, c in self.candidates.items() if n in wanted or not wanted}
        return self.model_copy(update={"candidates": kept})


def read_yaml(text: str) -> Any:
    """Return what the text of a configuration file says, not checked yet.

    Args:
        text: YAML.

    Raises:
        ValueError: It is not YAML, or reads two ways: see `mlpipeline.plan.yaml_text`.
    """
    return yaml_text.read(text)


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Args:
        path: The file, YAML in UTF-8.

    Raises:
        ConfigurationError: The file cannot be read, is not YAML, or does not fit; names every
            problem, with the nearest known key for each unknown one.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}",
            expected="a configuration file",
            remedy="name one with --config, such as configs/default.yaml",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not YAML: its byte {error.start} is no UTF-8",
            expected="text in UTF-8",
            remedy="save it as UTF-8: `iconv -f UTF-16 -t UTF-8`, for example",
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not YAML: {error}",
            expected="a mapping such as configs/default.yaml",
            remedy="mend the place that the message names",
        ) from error
    return parse(raw, origin=str(path))


def parse(raw: Any, *, origin: str) -> Config:
    """Check what a configuration file says.

    Args:
        raw: Its content, as YAML is read.
        origin: What messages call it: the file's path, for example.

    Raises:
        ConfigurationError: It does not fit; names every problem.
    """
    raw, origins = searching.expand(raw)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        errors = [
            {**e, "loc": searching.place_in_space(e["loc"], origins)}
            for e in error.errors()
            if not _is_inherited(e["loc"], raw)
        ]
        # What is wrong with a search is wrong with many of its trials.
        problems = list(dict.fromkeys(line for e in errors for line in _describe(e)))
        raise ConfigurationError(
            f"{origin} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            expected="the keys and values of docs/reference/configuration.md",
            remedy=f"mend {origin}; every problem is listed above",
        ) from error


def write(config: Config, file: Path) -> None:
    """Write a configuration for the steps of a run, so that `load` reads an equal one.

    Args:
        config: The configuration.
        file: Where to write it.
    """
    content = config.model_dump(mode="json")
    artifacts.write_text(file, yaml_text.write(content))


def _is_inherited(location: tuple[Any, ...], raw: Any) -> bool:
    """Whether it is a problem elsewhere already: in the recipe, or in the search."""
    match location:
        case ("candidates",):  # there are none only because a search could not be expanded
            return bool(raw.get("search")) and not raw.get("candidates")
        case ("candidates", name, key, *_):
            return key in Recipe.model_fields and key not in raw["candidates"][name]
    return False


def _describe(error: dict[str, Any]) -> list[str]:
    place = ".".join(str(part) for part in error["loc"])
    prefix = f"{place}: " if place else ""
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
            return [f"{place}: unknown key; {hint}"]
        case "missing":
            return [f"{place}: missing"]
        case "model_type" | "dict_type":
            return [f"{prefix}got {error['input']!r}, expected keys and their values"]
        case "string_type":
            return [f"{prefix}got {error['input']!r}, expected text: put it in quotes"]
        case "value_error":
            return [f"{prefix}{line}" for line in str(error["ctx"]["error"]).splitlines()]
        case _:
            said = f": {error['msg']}".replace(": Input should be ", ", expected ")
            return [f"{prefix}got {error['input']!r}{said}"]


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """The keys of the section that a location of a pydantic error points to."""
    section: Any = Config
    match location:
        case ("candidates", _) | ("search", _, "space"):
            section = Candidate
        case ("search", _):
            section = Search
        case ("search", _, "space", _):
            section = searching.Dimension
        case ("serving", "log"):
            section = RequestLogging
        case ("rollout", "shadow" | "canary"):
            section = Trial
        case (name,):
            section = Config.model_fields[name].annotation
    return sorted(section.model_fields)
