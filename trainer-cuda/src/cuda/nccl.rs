//! Ranks on GPUs.

use super::Cuda;
use crate::ranks::{Collective, Group};
use crate::{Result, TrainerError};

impl Cuda {
    pub(super) fn join_by_nccl(&self, _: Group) -> Result<Box<dyn Collective<Self>>> {
        Err(TrainerError::NoRankLibrary {
            what: "this build joins no ranks on GPUs".to_owned(),
            remedy: "train on one GPU, or on the CPU".to_owned(),
        })
    }
}
