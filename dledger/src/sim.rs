//! The deterministic simulator, as a library.

pub mod disk;
