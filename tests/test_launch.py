"""How a process was started; processes that can't join each other must not each train their own network."""

import pytest

from xrayfast.errors import ConfigError
from xrayfast.launch import Launch, find_launch, first_host, is_rank_zero, require_alone

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
JOB = {"SLURM_JOB_ID": "4000123", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_PROCID": "0"}
"""What a batch script sees: also SLURM_PROCID and SLURM_LOCALID, of its only process."""
STEP = JOB | {"SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}
PORT = 12_000 + (31 * 4000123 + 2) % 20_000
OF_STEP = Launch(5, 8, 1, f"tcp://gpu07:{PORT}", "srun")
OF_TORCHRUN = Launch(5, 8, 1, "env://", "torchrun")


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, Launch()),
        (TORCHRUN, OF_TORCHRUN),
        (TORCHRUN | STEP | {"SLURM_STEP_NUM_TASKS": "2"}, OF_TORCHRUN),  # srun starts torchrun once per node
        ({"WORLD_SIZE": "1", "RANK": "0"}, Launch()),
        (STEP, OF_STEP),
        (STEP | {"WORLD_SIZE": "8", "PMI_SIZE": "8"}, OF_STEP),  # many job scripts export these
        (STEP | {"SLURM_STEP_NODELIST": "gpu08"}, Launch(5, 8, 1, f"tcp://gpu08:{PORT}", "srun")),
        (STEP | {"MASTER_ADDR": "b", "MASTER_PORT": "1"}, Launch(5, 8, 1, "tcp://b:1", "srun")),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, Launch()),
        (JOB, Launch()),  # in sbatch's script
        (STEP | {"SLURM_STEP_ID": str(0xFFFF_FFFA)}, Launch()),  # in salloc's shell
        ({"OMPI_COMM_WORLD_SIZE": "1"}, Launch()),
        (TORCHRUN | {"OMPI_COMM_WORLD_SIZE": "8"}, OF_TORCHRUN),
    ],
)
def test_the_launch_is_found_in_the_environment(environ, launch):
    assert find_launch(environ) == launch


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "not MASTER_ADDR, MASTER_PORT, so"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set to 2, but not RANK, MASTER_ADDR, MASTER_PORT, so"),
        (TORCHRUN | {"RANK": "8"}, "RANK is 8, and WORLD_SIZE 8; expected ranks from 0 to 7"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a number"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI's mpirun started 4 processes.*torchrun or srun"),
        (STEP | {"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI's mpirun started 4"),  # mpirun starts its daemons with srun
        ({"PMI_SIZE": "4"}, "mpiexec started 4"),
        (STEP | {"WORLD_SIZE": "1", "RANK": "0"}, "srun started 8 processes, and WORLD_SIZE is 1 in each"),
        ({k: v for k, v in STEP.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is not set"),
        ({k: v for k, v in STEP.items() if "NODELIST" not in k}, "SLURM_JOB_NODELIST is not set"),
        (STEP | {"SLURM_PROCID": "9"}, "SLURM_PROCID is 9"),
    ],
)
def test_a_world_that_cannot_be_joined_is_refused_by_name(environ, message):
    with pytest.raises(ConfigError, match=message):
        find_launch(environ)


def test_the_first_host_of_a_list():
    assert first_host("a[1,3-4]b,c") == "a1b" and first_host("n-[008-010]") == "n-008" and first_host("x.y") == "x.y"


def test_single_process_work_refuses_ranks_and_only_rank_zero_prints(monkeypatch):
    require_alone("a range test is of one process")
    assert is_rank_zero()
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert not is_rank_zero()
    with pytest.raises(ConfigError, match="of one process; found 8 processes, started by torchrun"):
        require_alone("a range test is of one process")
    monkeypatch.delenv("MASTER_ADDR")
    assert is_rank_zero()  # so every process prints the error
    with pytest.raises(ConfigError, match="found 8 processes, started by torchrun"):
        require_alone("predict runs in one process")


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        ({k: v for k, v in STEP.items() if "NODELIST" not in k}, "srun"),
        (STEP | {"WORLD_SIZE": "1"}, "srun"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, "Open MPI's mpirun"),
    ],
)
def test_several_processes_are_refused_before_their_rendezvous_is_checked(monkeypatch, environ, launcher):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"one process; found 8 processes, started by {launcher}"):
        require_alone("predict runs in one process")
