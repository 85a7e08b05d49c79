//! One connection per address, opened on demand and again after a loss.
//!
//! Callers that need the same address at the same time share one attempt to connect, its failure included.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledgermq_protocol::remoting::command::RemotingCommand;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::RequestError;
use crate::inbound::Inbound;

/// Addresses that are remembered. Routes name a few; beyond this the closed ones are forgotten.
const ADDRESSES_MAX: usize = 1_024;

/// All connections of a client.
#[derive(Debug)]
pub(crate) struct Connections {
    connect_timeout: Duration,
    inbound: Arc<Inbound>,
    /// Numbers the connections.
    next_id: AtomicU64,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_addr: HashMap<String, Arc<Slot>>,
    stopped: bool,
}

#[derive(Debug)]
struct Slot {
    addr: Arc<str>,
    open: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting; inside, how the last attempt failed.
    connecting: tokio::sync::Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
    error: RequestError,
}

impl Connections {
    pub(crate) fn new(connect_timeout: Duration, inbound: Arc<Inbound>) -> Self {
        Self { connect_timeout, inbound, next_id: AtomicU64::new(1), slots: Mutex::default() }
    }

    /// Number of the open connection to `addr`, if there is one.
    pub(crate) fn open_id(&self, addr: &str) -> Option<u64> {
        let slot = self.slots.lock().by_addr.get(addr).map(Arc::clone)?;
        slot.open().map(|connection| connection.id())
    }

    /// Sends a request to `addr` and waits for its answer until `deadline`, time to connect included.
    pub(crate) async fn request(
        &self,
        addr: &str,
        request: RemotingCommand,
        deadline: Instant,
    ) -> Result<RemotingCommand, RequestError> {
        self.connection(addr, deadline).await?.request(request, deadline).await
    }

    /// Queues a one-way request for `addr`.
    pub(crate) async fn oneway(
        &self,
        addr: &str,
        request: RemotingCommand,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.connection(addr, deadline).await?.oneway(request, deadline).await
    }

    /// Closes all and opens none any more.
    pub(crate) fn stop(&self) {
        let slots = {
            let mut slots = self.slots.lock();
            slots.stopped = true;
            std::mem::take(&mut slots.by_addr)
        };
        for slot in slots.into_values() {
            if let Some(connection) = slot.open.lock().take() {
                connection.close("the client stopped");
            }
        }
    }

    /// The open connection to `addr`, or a new one.
    pub(crate) async fn connection(&self, addr: &str, deadline: Instant) -> Result<Arc<Connection>, RequestError> {
        let asked_at = Instant::now();
        let slot = self.slot(addr)?;
        if let Some(open) = slot.open() {
            return Ok(open);
        }
        let waited = tokio::time::timeout_at(deadline, slot.connecting.lock()).await;
        let Ok(mut last_failure) = waited else {
            return Err(RequestError::Connect { addr: addr.to_owned(), why: "others were still connecting".into() });
        };
        if let Some(open) = slot.open() {
            return Ok(open);
        }
        if let Some(failure) = last_failure.as_ref()
            && failure.at >= asked_at
        {
            return Err(failure.error.clone());
        }
        // The attempt belongs to all who wait: it is not cut short by the deadline of the one that makes it, only bounded.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        match Connection::open(id, &slot.addr, self.connect_timeout, &self.inbound).await {
            Ok(connection) => {
                *last_failure = None;
                *slot.open.lock() = Some(Arc::clone(&connection));
                self.inbound.connection_changed();
                if self.slots.lock().stopped {
                    connection.close("the client stopped");
                }
                Ok(connection)
            }
            Err(error) => {
                *last_failure = Some(Failure { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }

    fn slot(&self, addr: &str) -> Result<Arc<Slot>, RequestError> {
        let mut slots = self.slots.lock();
        if slots.stopped {
            return Err(RequestError::Stopped);
        }
        if let Some(slot) = slots.by_addr.get(addr) {
            return Ok(Arc::clone(slot));
        }
        if slots.by_addr.len() >= ADDRESSES_MAX {
            slots.by_addr.retain(|_, slot| slot.open().is_some());
        }
        let slot =
            Arc::new(Slot { addr: addr.into(), open: Mutex::default(), connecting: tokio::sync::Mutex::default() });
        slots.by_addr.insert(addr.to_owned(), Arc::clone(&slot));
        Ok(slot)
    }
}

impl Slot {
    fn open(&self) -> Option<Arc<Connection>> {
        self.open.lock().as_ref().filter(|connection| connection.is_open()).cloned()
    }
}
