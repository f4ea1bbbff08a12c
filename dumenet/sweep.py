"""Many tasks on many processes, through Dask: of this machine, or of any cluster that has a scheduler."""

from collections.abc import Callable, Collection, Mapping
from typing import Any
from unittest.mock import patch

from tqdm.auto import tqdm

from dumenet.errors import DumenetError


def sweep(
    function: Callable[..., Any],
    tasks: Mapping[str, tuple],
    workers: int = 0,
    scheduler: str | None = None,
    progress: bool = True,
    after: Mapping[str, Collection[str]] | None = None,
    unit: str = "job",
) -> dict[str, Any]:
    """What `function` returns for the arguments of each task, by the task's name.

    A task whose worker dies is given to another one; after four deaths it is given up, and its result is a sentence.
    So a task must be safe to do twice: jobs look for their results file first, lessons for their stamp.

    Args:
        workers: processes to start on this machine, one thread each.
        scheduler: address of a running scheduler ("tcp://10.0.0.1:8786") instead; its workers need this package.
        after: for a task, those that must have ended before it starts, well or badly; without a circle.

    Raises:
        DumenetError: no scheduler answers, or no process to do it.
    """
    from distributed import Client, LocalCluster, as_completed  # here: only a sweep waits for it
    from distributed.config import config

    if workers < 1 and not scheduler:
        raise DumenetError(
            f"--workers is {workers}: give the number of processes, or leave it out for none beside this one."
        )
    if not tasks:
        return {}
    try:
        dashboard = "127.0.0.1:0"  # ":0" would show it to the whole network
        # Its profiler keeps the call stacks of the last hour: some hundred kB a second, which looks like a leak.
        with patch.dict(config["distributed"]["worker"]["profile"], enabled=False):
            cluster = (
                None
                if scheduler
                else LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=dashboard)
            )
        client = Client(scheduler or cluster)
    except (OSError, ValueError) as error:
        if scheduler is None:
            raise DumenetError(
                f"Cannot start {workers} processes ({error}): free some space or memory, or use --workers 0."
            ) from None
        raise DumenetError(
            f"No Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`."
        ) from None
    waiting = {name: set((after or {}).get(name, ())) & tasks.keys() for name in tasks}
    futures, results = {}, {}

    def start() -> list[Any]:
        """What waits for nothing any more."""
        names = [name for name, before in waiting.items() if before <= results.keys()]
        for name in names:
            del waiting[name]
            futures[name] = client.submit(function, *tasks[name], key=name, pure=False)
        return [futures[name] for name in names]

    try:
        ended = as_completed(start())
        with tqdm(ended, f"{unit}s", len(tasks), disable=not progress, unit=unit) as bar:
            for future in bar:
                error = future.exception()
                results[future.key] = future.result() if error is None else f"{type(error).__name__}: {error}"
                bar.set_postfix_str(f"{future.key} has ended"[:60])
                ended.update(start())
    finally:
        client.close()
        if cluster:
            cluster.close()
    return results
