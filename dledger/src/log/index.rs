//! The sparse index.
/// Sparse index of a whole log.
#[derive(Clone, Debug, Default)]
pub struct SparseIndex {}
