"""Files, written whole or not at all."""

import contextlib
import hashlib
import os
import uuid
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from dumenet.errors import refused


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, never sees half a file.

    Goes to a temporary file in the same folder first; folders are made. DumenetError when it cannot be.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise refused(f"write {path}", error) from error


def _temporary(path: Path) -> BinaryIO:
    """An empty file beside `path`, locked until it is closed or its process dies.

    It has one name for each `path`, so that the next writer takes what a killed one left; where another writer is at
    it, or nothing can be locked, it has a name of its own. No name holds that of `path`, which may be very long.
    """
    shared = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.tmp")
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if fcntl:
            file = stack.enter_context(shared.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(shared)):  # or another writer has just made it `path`
                file.truncate(0)
                stack.pop_all()
                return file
    return path.with_name(f".{uuid.uuid4().hex}.tmp").open("xb")
