//! Which rank this process is, from what launchers put into the environment.

use super::{Ranks, Share};
use crate::{Result, TrainerError};

/// More are a slip of the hand: every rank has the whole data set, and a step is shared out among them.
const MOST_RANKS: usize = 4096;

/// The variables of one kind of launcher.
struct Launcher {
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    /// Whether it has already joined the processes for MPI.
    joins_mpi: bool,
    /// Whether both are there in every process that it starts, of one rank too, and other ones without a meaning.
    always_set: bool,
}

/// In the order in which they count: a Slurm job may start torchrun or `mpirun`, which know better than Slurm.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { rank: "RANK", world_size: "WORLD_SIZE", local_rank: "LOCAL_RANK", joins_mpi: false, always_set: false },
    Launcher {
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        joins_mpi: true,
        always_set: false,
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        joins_mpi: false, // for its own library, whose handles are others
        always_set: false,
    },
    Launcher {
        rank: "SLURM_PROCID",
        world_size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        joins_mpi: false,
        always_set: true,
    },
];

/// Reads them through `variable`; `None` where this process is the only one.
pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Ranks>> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    for launcher in &LAUNCHERS {
        let Launcher { rank, world_size, local_rank, joins_mpi, always_set } = *launcher;
        let (rank_is, world_size_is) = (number(&variable, rank), number(&variable, world_size));
        let (rank_is, world_size_is) = match (rank_is?, world_size_is?) {
            (Some(rank_is), Some(world_size_is)) => (rank_is, world_size_is),
            (None, None) if rank == "RANK" && variable(local_rank).is_some() => {
                return Err(half_set(local_rank, "RANK` and `WORLD_SIZE"));
            }
            (None, None) => continue,
            _ if always_set => continue,
            (Some(_), None) => return Err(half_set(rank, world_size)),
            (None, Some(_)) => return Err(half_set(world_size, rank)),
        };
        let refuse =
            |what: String, remedy: &str| Err(TrainerError::RankEnvironment { what, remedy: remedy.to_owned() });
        if !(1..=MOST_RANKS).contains(&world_size_is) {
            return refuse(
                format!("`{world_size}` is {world_size_is}"),
                &format!("it is the number of ranks, 1 to {MOST_RANKS}"),
            );
        }
        if rank_is >= world_size_is {
            return refuse(
                format!("`{rank}` is {rank_is} where `{world_size}` is {world_size_is}"),
                "ranks count from 0; unset both to train in one process",
            );
        }
        if world_size_is == 1 {
            return Ok(None);
        }
        let local_rank = number(&variable, local_rank)?.unwrap_or(0);
        let address = address(&variable)?;
        if address.is_none() && !joins_mpi {
            let remedy = match always_set {
                true => {
                    "add `export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1) \
                         MASTER_PORT=29500` to the job script, or start one task"
                }
                false => "set it to the host of rank 0, and `MASTER_PORT` to a free port there",
            };
            return refuse(format!("`{world_size}` is {world_size_is}, but `MASTER_ADDR` is not set"), remedy);
        }
        return Ok(Some(Ranks { share: Share::new(rank_is, world_size_is), local_rank, address, joins_mpi }));
    }
    Ok(None)
}

/// Where the ranks meet.
fn address(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, u16)>> {
    let (host, port) = (variable("MASTER_ADDR"), number(variable, "MASTER_PORT")?);
    let (host, port) = match (host, port) {
        (None, None) => return Ok(None),
        (Some(host), Some(port)) => (host, port),
        (Some(_), None) => return Err(half_set("MASTER_ADDR", "MASTER_PORT")),
        (None, Some(_)) => return Err(half_set("MASTER_PORT", "MASTER_ADDR")),
    };
    // torchrun keeps a store of its own at that port.
    let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let port = u16::try_from(port + usize::from(taken)).ok().filter(|&port| port > 0);
    let port = port.ok_or_else(|| TrainerError::RankEnvironment {
        what: "`MASTER_PORT` is not a port".to_owned(),
        remedy: "set it to a free one on the host of rank 0, as 29500".to_owned(),
    })?;
    Ok(Some((host, port)))
}

fn number(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>> {
    let Some(value) = variable(name) else { return Ok(None) };
    match value.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(TrainerError::RankEnvironment {
            what: format!("`{name}` is `{value}`"),
            remedy: "the launcher sets it to a whole number from 0".to_owned(),
        }),
    }
}

fn half_set(set: &str, missing: &str) -> TrainerError {
    TrainerError::RankEnvironment {
        what: format!("`{set}` is set without `{missing}`"),
        remedy: "set all of them, or none to train in one process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Ranks>> {
        read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn error(variables: &[(&str, &str)]) -> String {
        of(variables).expect_err("refused").to_string()
    }

    const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];

    fn with_master(variables: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        [&MASTER, variables].concat()
    }

    #[test]
    fn every_launcher_says_which_rank_this_is() {
        let launchers: [[(&str, &str); 3]; 4] = [
            [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")],
            [("PMI_RANK", "3"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "1")],
            [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")],
            [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "1")],
        ];
        for variables in launchers {
            let ranks = of(&with_master(&variables)).expect("sensible").expect("ranks");
            assert_eq!((ranks.rank(), ranks.world_size(), ranks.local_rank()), (3, 4, 1), "{variables:?}");
            assert_eq!(ranks.address, Some(("node1".to_owned(), 29500)));
            assert_eq!(ranks.joins_mpi, variables[0].0 == "PMI_RANK");
        }
    }

    #[test]
    fn nothing_in_the_environment_is_one_rank_and_so_is_a_world_of_one() {
        let none: [&[(&str, &str)]; 5] = [
            &[],
            &MASTER,
            &[("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_LOCALID", "0")],
            &[("SLURM_NTASKS", "2")], // `salloc` without a task
        ];
        for variables in none {
            assert!(of(variables).expect("sensible").is_none(), "{variables:?}");
        }
    }

    #[test]
    fn torchrun_inside_a_slurm_job_knows_better_and_keeps_its_own_port() {
        let both = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "2"),
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        let ranks = of(&with_master(&both)).expect("sensible").expect("ranks");
        assert_eq!((ranks.rank(), ranks.world_size()), (5, 8));
        assert_eq!(ranks.address, Some(("node1".to_owned(), 29501)));
    }

    #[test]
    fn an_mpi_launcher_needs_no_address() {
        let ranks = of(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).expect("sensible").expect("ranks");
        assert_eq!((ranks.address, ranks.joins_mpi), (None, true));
    }

    #[test]
    fn what_is_half_set_or_nonsense_is_refused_by_the_variables_name() {
        let all = "set all of them, or none to train in one process";
        let table: [(&[(&str, &str)], String); 11] = [
            (&[("RANK", "0")], format!("`RANK` is set without `WORLD_SIZE`; {all}")),
            (&[("WORLD_SIZE", "2")], format!("`WORLD_SIZE` is set without `RANK`; {all}")),
            (&[("LOCAL_RANK", "1")], format!("`LOCAL_RANK` is set without `RANK` and `WORLD_SIZE`; {all}")),
            (
                &[("RANK", "2"), ("WORLD_SIZE", "2")],
                "`RANK` is 2 where `WORLD_SIZE` is 2; ranks count from 0; unset both to train in one process".to_owned(),
            ),
            (&[("RANK", "-1"), ("WORLD_SIZE", "2")], "`RANK` is `-1`; the launcher sets it to a whole number from 0".to_owned()),
            (&[("RANK", "0"), ("WORLD_SIZE", "0")], "`WORLD_SIZE` is 0; it is the number of ranks, 1 to 4096".to_owned()),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2")],
                "`WORLD_SIZE` is 2, but `MASTER_ADDR` is not set; set it to the host of rank 0, and `MASTER_PORT` to a free \
                 port there"
                    .to_owned(),
            ),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a")],
                format!("`MASTER_ADDR` is set without `MASTER_PORT`; {all}"),
            ),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")],
                "`MASTER_PORT` is not a port; set it to a free one on the host of rank 0, as 29500".to_owned(),
            ),
            (&[("PMI_RANK", "1")], format!("`PMI_RANK` is set without `PMI_SIZE`; {all}")),
            (
                &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")],
                "`SLURM_NTASKS` is 2, but `MASTER_ADDR` is not set; add `export MASTER_ADDR=$(scontrol show hostnames \
                 \"$SLURM_JOB_NODELIST\" | head -n 1) MASTER_PORT=29500` to the job script, or start one task"
                    .to_owned(),
            ),
        ];
        for (variables, expected) in table {
            assert_eq!(error(variables), expected);
        }
    }
}
