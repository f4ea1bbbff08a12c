"""Files, written whole or not at all."""

import os
import uuid
from pathlib import Path

from dumenet.errors import refused


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, never sees half a file.

    Goes to a temporary file in the same folder first; folders are made. DumenetError when it cannot be.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise refused(f"write {path}", error) from error
