//! Where a delayed message lies while it waits.

/// The place of a delayed message that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerPlace {
    /// Log position of its record: another one once it was carried forward.
    pub pos: u64,
    /// Bytes of the record.
    pub size: u32,
}
