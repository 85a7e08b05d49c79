//! A group that has lost its majority for ever goes on with one survivor ([`ledgermq_dledger::salvage`]): the node's part of
//! it. Offline: the node must not run.

use std::sync::Arc;

use ledgermq_dledger::GroupId;
use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::salvage::{self, Recovered, SalvageError, Survivor};
use uuid::Uuid;

use super::layer::set_up;
use super::{StartError, lock_data_dir};
use crate::config::{BrokerConfig, GroupConfig};
use crate::store::RocksBudget;

/// Why a survivor cannot go on alone.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// The node runs, or its folder cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The replica.
    #[error(transparent)]
    Salvage(#[from] SalvageError),
}

/// What the replica of this group has, without changing anything.
///
/// # Errors
/// [`SurvivorError`], in a sentence.
pub fn survivor(config: &BrokerConfig, group: &GroupConfig) -> Result<Survivor, SurvivorError> {
    let _lock = lock_data_dir(&config.data_dir)?;
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    Ok(salvage::look(&fs, &config.data_dir.join(&group.name))?)
}

/// Makes this node's replica the only member of its group, under a new identity of the group.
///
/// # Errors
/// [`SurvivorError`], in a sentence; it may be tried again.
pub fn unsafe_recover(config: &BrokerConfig, group: &GroupConfig, new_id: Uuid) -> Result<Recovered, SurvivorError> {
    let _lock = lock_data_dir(&config.data_dir)?;
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let (mut setup, _parts) = set_up(config, group, &RocksBudget::default());
    Ok(salvage::unsafe_recover(&fs, &setup.dir, GroupId(new_id), |meta, view| (setup.layer)(meta, view))?)
}
