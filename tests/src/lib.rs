//! Whole-process tests of LedgerMQ: a cluster of real processes, official clients as peers, faults made with the
//! kernel's own tools, histories written by clients, and a judge of histories.
//!
//! ```text
//! cluster (ledgermq dev) <-- load, java (clients) --> history files --> checker
//!        ^-- fault (kill, strace, power cut)
//! ```
#![forbid(unsafe_code)]

pub mod checker;
pub mod history;
