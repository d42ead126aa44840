"""Detects whether this process was started alone, or by torchrun or SLURM's srun as one of several ranks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from xrayfast.errors import ConfigError

_MPI = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "PMI_SIZE": "mpiexec",
}
"""Unsupported launchers, keyed by the variable that says how many were started. srun sets PMI_SIZE too."""

_NO_TASKS = 0xFFFF_FFF0
"""SLURM's step numbers from here on are not of srun: they are of the batch script or of salloc's shell."""

FIRST_PORT, PORTS = 12_000, 20_000
"""Range of ports at which ranks meet, below the ports that systems assign automatically."""


@dataclass(frozen=True)
class Launch:
    """How this process was started.

    Attributes:
        rank: rank of this process, from 0.
        world_size: number of ranks; 1 if the process was started alone.
        local_rank: rank among the ranks on this machine.
        url: URL at which ranks find each other, for `torch.distributed.rendezvous`.
        launcher: "torchrun" or "srun"; "" for neither.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    url: str = ""
    launcher: str = ""


def find_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Return the launch that the environment variables describe.

    torchrun sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. For srun, the variables of its step are read;
    SLURM_NTASKS alone means nothing, because a single process of a batch script or of salloc's shell has it too. Ranks
    of srun meet at the step's first host and a port derived from the numbers of job and step, unless MASTER_ADDR and
    MASTER_PORT are set.

    Raises:
        ConfigError: several ranks were started that can't join each other, so that each would train its own network.
    """
    count, launcher, variable = _started(environ)
    if launcher == "torchrun":
        return _torchrun_launch(environ, count)
    if variable in _MPI:
        raise ConfigError(
            f"{launcher} started {count} processes ({variable}), and each would train its own network. Start them "
            "with torchrun or srun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT."
        )
    if count > 1 and _number(environ, "WORLD_SIZE") == 1:
        raise ConfigError(
            f"srun started {count} processes, and WORLD_SIZE is 1 in each: each would train its own network. Start "
            "torchrun once per node, with one rendezvous for all nodes; or start xrayfast with srun alone."
        )
    return _srun_launch(environ, count) if count > 1 else Launch()


def require_alone(what: str) -> None:
    """Raise an error if this is one of several ranks, for work that a single process does.

    Args:
        what: beginning of the message, such as "check runs in one process".

    Raises:
        ConfigError: this process is one of several ranks.
    """
    count, launcher, _ = _started(os.environ)
    if count > 1:
        raise ConfigError(
            f"{what}; found {count} processes, started by {launcher}. Start one process without {launcher}; to run "
            "several, set CUDA_VISIBLE_DEVICES for each."
        )


def is_rank_zero() -> bool:
    """Whether this process is rank zero, or one of several that can't join each other."""
    try:
        return find_launch().rank == 0
    except ConfigError:
        return True


def first_host(nodes: str) -> str:
    """Return the first host in a list in SLURM's format.

    >>> [first_host(nodes) for nodes in ("node[01-03,07],login", "a1,b2", "rack[2,5]-n[10-12]", "")]
    ['node01', 'a1', 'rack2-n10', '']
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else ""


def _started(environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Return how many ranks were started together, by which launcher, and the variable that says so.

    The ranks may not be able to join each other. For a process alone, return 1, "" and "".
    """
    step, world_size = _step(environ), _number(environ, "WORLD_SIZE")
    if world_size > 1 and ("RANK" in environ or step != world_size):
        return world_size, "torchrun", "WORLD_SIZE"
    for name, launcher in _MPI.items():
        if (count := _number(environ, name)) > 1 and not (name == "PMI_SIZE" and step):
            return count, launcher, name
    return (step, "srun", "SLURM_STEP_NUM_TASKS") if step else (1, "", "")


def _step(environ: Mapping[str, str]) -> int:
    """Return the number of tasks of srun's step; 0 if there is only one, or no step."""
    if not environ.get("SLURM_STEP_ID", "").isdigit() or int(environ["SLURM_STEP_ID"]) >= _NO_TASKS:
        return 0
    count = _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")
    return count if count > 1 else 0


def _torchrun_launch(environ: Mapping[str, str], world_size: int) -> Launch:
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE is set to {world_size}, but not {', '.join(missing)}, so the ranks can't find each other. "
            "Start them with torchrun or srun; for one process, unset WORLD_SIZE."
        )
    rank, local_rank = _number(environ, "RANK"), _number(environ, "LOCAL_RANK")
    _require_rank(rank, world_size, "RANK", "WORLD_SIZE")
    return Launch(rank, world_size, local_rank, "env://", "torchrun")


def _srun_launch(environ: Mapping[str, str], world_size: int) -> Launch:
    lists = (environ.get(name, "") for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"))
    host = environ.get("MASTER_ADDR") or first_host(next(filter(None, lists), ""))
    if not host or "SLURM_PROCID" not in environ:
        found = "SLURM_PROCID" if host else "SLURM_STEP_NODELIST or SLURM_JOB_NODELIST"
        raise ConfigError(
            f"srun started {world_size} processes, but {found} is not set, so the ranks can't find each other. Start "
            "them with torchrun, or set it."
        )
    rank, local_rank = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_LOCALID")
    _require_rank(rank, world_size, "SLURM_PROCID", "SLURM_NTASKS")
    step = 31 * _number(environ, "SLURM_JOB_ID") + _number(environ, "SLURM_STEP_ID")
    port = environ.get("MASTER_PORT") or FIRST_PORT + step % PORTS
    return Launch(rank, world_size, local_rank, f"tcp://{host}:{port}", "srun")


def _number(environ: Mapping[str, str], name: str) -> int:
    """Return the number in an environment variable; 0 if it is not set."""
    text = environ.get(name, "0")
    if not text.isdigit():
        raise ConfigError(f"The environment variable {name} is {text!r}; expected a number. Unset it, or correct it.")
    return int(text)


def _require_rank(rank: int, world_size: int, name: str, of: str) -> None:
    if rank >= world_size:
        raise ConfigError(f"{name} is {rank}, and {of} {world_size}; expected ranks from 0 to {world_size - 1}.")
