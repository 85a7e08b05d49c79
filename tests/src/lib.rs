//! Whole-process tests of LedgerMQ: a cluster of real processes, official clients as peers, faults made with the
//! kernel's own tools, histories written by clients, and a judge of histories.
//!
//! ```text
//! cluster (ledgermq dev) <-- load, peer (clients) --> history files --> checker
//!        ^-- fault (kill, strace, power cut), network (a namespace per node), drill (rounds, gaps)
//! ```
//! What every client library must be able to do is in [`scenario`], whichever it is.
//!
//! Apart from these, [`sim`] puts the broker's state machine into dledger's simulator.
#![forbid(unsafe_code)]

pub mod alone;
pub mod built_once;
pub mod checker;
pub mod cluster;
pub mod drill;
pub mod fault;
pub mod filtering;
pub mod go;
pub mod history;
pub mod java;
pub mod later;
pub mod load;
pub mod mqadmin;
pub mod network;
pub mod payload;
pub mod peer;
pub mod program;
pub mod replicas;
pub mod scenario;
pub mod sim;
pub mod sql92;
pub mod stage;
pub mod wire;
pub mod words;
