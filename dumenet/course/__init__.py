"""What only the lessons need."""

from pathlib import Path

from dumenet.errors import DumenetError, unknown

PROFILES = ("quick", "laptop", "paper")  # how long lessons train


def project(home: str | Path, profile: str) -> Path:
    """The project's folder, where a lesson finds data/, figures/ and build/; DumenetError for an unknown `profile`.

    `home` leads there from the lesson's own folder. Papermill runs a lesson where papermill is started: in the
    project's folder itself, a `home` that only goes up would lead too far.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return Path() if Path("notebooks").is_dir() and set(Path(home).parts) == {".."} else Path(home)


def lessons(home: Path) -> list[Path]:
    """The lessons of a clone of the project, in order; DumenetError where there are none."""
    paths = sorted((home / "notebooks").glob("[0-9]*.ipynb"))
    if not paths:
        raise DumenetError(f"No lessons in {home / 'notebooks'}: run this in a clone of the project.")
    return paths
