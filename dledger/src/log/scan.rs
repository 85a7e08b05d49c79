//! Sequential reading of frames.
