//! Messages: the record as the CommitLog stores it and pull answers carry it, and the parts inside one.

pub mod record;
pub mod sys_flag;
