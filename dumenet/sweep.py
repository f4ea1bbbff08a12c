"""Many tasks on many processes, through Dask: of this machine, or of any cluster that has a scheduler."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

from tqdm.auto import tqdm

from dumenet.errors import DumenetError


def sweep(
    function: Callable[..., Any], tasks: Mapping[str, tuple], workers: int = 0, scheduler: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What `function` returns for the arguments of each task, by the task's name.

    A task whose worker dies is given to another one; after four deaths it is given up, and its result is a sentence.
    So a task must be safe to do twice: a job looks for its results file first.

    Args:
        workers: processes to start on this machine, one thread each.
        scheduler: address of a running scheduler ("tcp://10.0.0.1:8786") instead; its workers need this package.

    Raises:
        DumenetError: no scheduler answers, or no process to do it.
    """
    # here: only a sweep waits for them
    from distributed import Client, LocalCluster, as_completed
    from distributed.config import config

    if not tasks:
        return {}
    if workers < 1 and not scheduler:
        raise DumenetError(f"--workers is {workers}: give the number of processes, or leave it out for this one alone.")
    try:
        # Its profiler keeps the call stacks of the last hour: some hundred kB a second, which looks like a leak.
        with contextlib.ExitStack() as stack, patch.dict(config["distributed"]["worker"]["profile"], enabled=False):
            if not scheduler:
                dashboard = "127.0.0.1:0"  # ":0" would show it to the whole network
                local = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=dashboard)
                scheduler = stack.enter_context(local)
            client = stack.enter_context(Client(scheduler))
            opened = stack.pop_all()
    except (OSError, ValueError) as error:
        problem = f"Cannot start {workers} processes ({error}): free some space or memory, or use --workers 0."
        if isinstance(scheduler, str):
            problem = f"No Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`."
        raise DumenetError(problem) from None
    results = {}
    with opened, tqdm(desc="jobs", total=len(tasks), disable=not progress, unit="job") as bar:
        futures = [client.submit(function, *task, key=name, pure=False) for name, task in tasks.items()]
        for future in as_completed(futures):
            error = future.exception()
            results[future.key] = future.result() if error is None else f"{type(error).__name__}: {error}"
            bar.set_postfix_str(f"{future.key} has ended"[:60])
            bar.update()
    return results
