//! A simulated file system that keeps durable and volatile bytes apart.

/// The simulated file system. Clones share the disk.
#[derive(Clone)]
pub struct SimFs {}
