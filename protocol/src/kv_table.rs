//! A plain table of texts: runtime figures of a broker, and the configuration that a registration gets back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{self, bounded_map};

/// Most entries that are read.
pub const MAX_ENTRIES: usize = 65_536;

/// A table of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTable {
    /// The entries.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_ENTRIES>")]
    pub table: BTreeMap<String, String>,
}

json::body!(KvTable);
