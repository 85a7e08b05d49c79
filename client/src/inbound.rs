//! What comes to a client unasked: notices of brokers, and the coming and going of its own connections.
//!
//! Connections put it in; whoever shares queues or sends heartbeats waits for it here.

use std::collections::HashMap;
use std::sync::Arc;

use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::NotifyConsumerIdsChanged;
use ledgermq_protocol::remoting::request_code::RequestCode;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::debug;

/// The meeting point.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Who wants to know that the members of a group changed. One entry per consumer of this client.
    groups: Mutex<HashMap<String, Arc<Notify>>>,
    turnover: watch::Sender<u64>,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { groups: Mutex::default(), turnover: watch::Sender::new(0) }
    }

    /// Wakes whenever a connection was opened or has ended.
    pub(crate) fn turnover(&self) -> watch::Receiver<u64> {
        self.turnover.subscribe()
    }

    /// A connection was opened or has ended.
    pub(crate) fn connection_changed(&self) {
        self.turnover.send_modify(|count| *count += 1);
    }

    /// From now on `wake` is notified when a broker says that the members of `group` changed.
    pub(crate) fn watch_group(&self, group: &str, wake: Arc<Notify>) {
        self.groups.lock().insert(group.to_owned(), wake);
    }

    /// Ends [`Self::watch_group`].
    pub(crate) fn unwatch_group(&self, group: &str) {
        self.groups.lock().remove(group);
    }

    /// Takes what a server sent of its own accord. `false` when nobody here can do anything with it.
    pub(crate) fn take(&self, request: &RemotingCommand) -> bool {
        if request.code != RequestCode::NOTIFY_CONSUMER_IDS_CHANGED {
            return false;
        }
        match request.header::<NotifyConsumerIdsChanged>() {
            Ok(notice) => {
                if let Some(wake) = self.groups.lock().get(&notice.consumer_group) {
                    wake.notify_one();
                }
            }
            // The timer of the group finds the change too.
            Err(error) => debug!(%error, "a notice that names no group"),
        }
        true
    }
}
