"""Many tasks on many processes, through Dask: of this machine, or of any cluster that has a scheduler."""

from collections.abc import Callable, Mapping
from typing import Any

from tqdm.auto import tqdm

from dumenet.errors import DumenetError


def sweep(
    function: Callable[..., Any],
    tasks: Mapping[str, tuple],
    workers: int = 0,
    scheduler: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """What `function` returns for the arguments of each task, by the task's name.

    A task whose worker dies is given to another one; after four deaths it is given up, and its result is a sentence.
    So a task must be safe to do twice: those of `dumenet.tables` look for their results file first.

    Args:
        workers: processes to start on this machine, one thread each.
        scheduler: address of a running scheduler ("tcp://10.0.0.1:8786") instead; its workers need this package.

    Raises:
        DumenetError: no scheduler answers.
    """
    from distributed import Client, LocalCluster, as_completed  # here: only a sweep waits for it

    if not tasks:
        return {}
    try:
        dashboard = "127.0.0.1:0"  # ":0" would show it to the whole network
        cluster = None if scheduler else LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=dashboard)
        client = Client(scheduler or cluster)
    except (OSError, ValueError) as error:
        if scheduler is None:
            raise DumenetError(f"Cannot start {workers} processes ({error}): free some space or memory, or use --workers 0.") from None
        raise DumenetError(f"No Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`.") from None
    results = {}
    try:
        futures = {client.submit(function, *arguments, key=name, pure=False): name for name, arguments in tasks.items()}
        for future in tqdm(as_completed(futures), "jobs", len(futures), disable=not progress, unit="job"):
            error = future.exception()
            results[futures[future]] = future.result() if error is None else f"{type(error).__name__}: {error}"
    finally:
        client.close()
        if cluster:
            cluster.close()
    return results
