"""Who started this process, and as which of how many: torchrun, Slurm's srun or Open MPI's mpirun."""

from __future__ import annotations

import os
from collections.abc import Mapping

from detector.engine import slurm
from detector.errors import ConfigError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
#: what every launcher's environment comes down to, as torch reads it
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def choose_launcher(given: str | None, environ: Mapping[str, str]) -> str:
    """The launcher to join: the one given, else torchrun's if it started this process, else none.

    Raises:
        ConfigError: srun or mpirun started several processes and no launcher is given: each would train
            alone, all into one folder.
    """
    if given is not None:
        return given
    if "TORCHELASTIC_RUN_ID" in environ and "RANK" in environ:
        return "pytorch"
    counts = {"slurm": slurm.step_tasks(environ), "mpi": int(environ.get("OMPI_COMM_WORLD_SIZE", "1"))}
    for name, count in counts.items():
        if count > 1:
            raise ConfigError(
                f"--launcher: found none, but {'srun' if name == 'slurm' else 'mpirun'} started {count} of "
                f"this process; expected --launcher {name} for one run of {count} processes. Give --launcher "
                f"none if {count} separate runs are meant."
            )
    return "none"


def join_environment(launcher: str, port: int | None = None) -> None:
    """Set what torch reads (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) from a launcher's own.

    Raises:
        ConfigError: an unknown launcher, or its environment is incomplete.
    """
    if launcher == "slurm":
        os.environ.update(slurm.rank_environment(os.environ, port))
    elif launcher == "mpi":
        os.environ.update(_mpi_environment(os.environ, port))
    elif launcher != "pytorch":
        raise ConfigError(f"--launcher: found {launcher!r}; expected one of {', '.join(LAUNCHERS)}.")
    missing = [name for name in RANK_VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher {launcher}: the environment lacks {', '.join(missing)}. Give --gpus N, or start it "
            "as: torchrun --nproc-per-node N -m detector train …"
        )


def _mpi_environment(environ: Mapping[str, str], port: int | None) -> dict[str, str]:
    """What torch reads, from what Open MPI's mpirun sets.

    Raises:
        ConfigError: mpirun did not start this process, or MASTER_ADDR is unknown.
    """
    names = {"RANK": "RANK", "SIZE": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_RANK"}
    missing = [name for name in (f"OMPI_COMM_WORLD_{key}" for key in names) if name not in environ]
    if missing or "MASTER_ADDR" not in environ:
        raise ConfigError(
            f"--launcher mpi: the environment lacks {', '.join([*missing, 'MASTER_ADDR'][:3])}. Start it as: "
            "mpirun -np N -x MASTER_ADDR=<first host> … detector train … --launcher mpi"
        )
    found = {ours: environ[f"OMPI_COMM_WORLD_{theirs}"] for theirs, ours in names.items()}
    return {**found, "MASTER_PORT": str(port or environ.get("MASTER_PORT", 29500))}
