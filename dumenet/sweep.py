"""Many tasks on many processes, through Dask: of this machine, or of any cluster that has a scheduler."""

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
    from distributed import as_completed  # here: only a sweep waits for it

    if not tasks:
        return {}
    client, results = _connect(workers, scheduler), {}
    try:
        futures = [client.submit(function, *task, key=name, pure=False) for name, task in tasks.items()]
        with tqdm(as_completed(futures), "jobs", len(tasks), disable=not progress, unit="job") as bar:
            for future in bar:
                error = future.exception()
                results[future.key] = future.result() if error is None else f"{type(error).__name__}: {error}"
                bar.set_postfix_str(f"{future.key} has ended"[:60])
    finally:
        client.close()
        if client.cluster:
            client.cluster.close()
    return results


def _connect(workers: int, scheduler: str | None) -> Any:
    """A client of the scheduler, or of processes started here."""
    from distributed import Client, LocalCluster
    from distributed.config import config

    if workers < 1 and not scheduler:
        raise DumenetError(
            f"--workers is {workers}: give the number of processes, or leave it out for none beside this one."
        )
    try:
        if scheduler:
            return Client(scheduler)
        # Its profiler keeps the call stacks of the last hour: some hundred kB a second, which looks like a leak.
        with patch.dict(config["distributed"]["worker"]["profile"], enabled=False):
            dashboard = "127.0.0.1:0"  # ":0" would show it to the whole network
            return Client(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=dashboard))
    except (OSError, ValueError) as error:
        if scheduler:
            problem = f"No Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`."
        else:
            problem = f"Cannot start {workers} processes ({error}): free some space or memory, or use --workers 0."
        raise DumenetError(problem) from None
