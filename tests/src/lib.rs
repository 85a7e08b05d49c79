//! Whole-process tests of LedgerMQ: a cluster of real processes, official clients as peers, faults made with the
//! kernel's own tools, histories written by clients, and a judge of histories.
//!
//! ```text
//! cluster (ledgermq dev) <-- load, java (clients) --> history files --> checker
//!        ^-- fault (kill, strace, power cut)
//! ```
//! Apart from these, [`sim`] puts the broker's state machine into dledger's simulator.
#![forbid(unsafe_code)]

pub mod alone;
pub mod checker;
pub mod cluster;
pub mod fault;
pub mod history;
pub mod java;
pub mod load;
pub mod payload;
pub mod program;
pub mod replicas;
pub mod sim;
pub mod wire;
