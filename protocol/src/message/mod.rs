//! Messages: the record as the CommitLog stores it and pull answers carry it, and the parts inside one.

pub mod batch;
pub mod id;
pub mod properties;
pub mod recall;
pub mod record;
pub mod sys_flag;
pub mod tags;
