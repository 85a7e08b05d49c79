//! The name server: which broker leads which queues.
//!
//! Stateless and in memory; its peers never talk, brokers register with all of them. A registration goes through
//! [`route_table`], where [`leader`] says who may be shown as brokerId 0 and [`liveness`] who is alive; a route request reads the
//! answer that the table keeps ready. It never asks a broker anything and never writes a file.

#![forbid(unsafe_code)]

pub mod config;
mod handler;
pub mod kv;
pub mod leader;
pub mod liveness;
mod readiness;
pub mod route_table;
mod server;

pub use config::{ConfigError, NamesrvConfig};
pub use server::{Namesrv, StartError};
