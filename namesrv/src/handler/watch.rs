//! LEDGER_WATCH_ROUTE: a route, once it differs from what the asker has. How our client learns of a new leader in milliseconds.
//!
//! A watch that cannot be answered yet is a task that waits for the table's next change; there is a bound on their number, over
//! all and per connection. It holds no lock and no snapshot while it waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ledgermq_protocol::extension::{WATCH_HOLD_MS, field};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::time::Instant;

use super::Refusal;
use super::route::{no_route, with_extension};
use crate::server::Server;
use crate::server::connection::Peer;

/// Watches that one connection may park: one per topic that a client uses.
const WATCHES_PER_CONNECTION: usize = 4_096;

/// Answers at once or parks the watch.
pub(super) fn watch(server: &Arc<Server>, peer: &Arc<Peer>, request: RemotingCommand) {
    // Who wants no answer has nothing to wait for.
    if request.is_oneway() {
        return;
    }
    let asked = match Asked::read(&request) {
        Ok(asked) => asked,
        Err(refusal) => return peer.outbox.send(&refusal.answer(&request)),
    };
    if let Some(outcome) = asked.look(server, &request) {
        return peer.outbox.send(&outcome.unwrap_or_else(|refusal| refusal.answer(&request)));
    }
    let on_connection = peer.watches.fetch_add(1, Ordering::AcqRel);
    let place = server.watches.try_acquire();
    if on_connection >= WATCHES_PER_CONNECTION || place.is_err() {
        peer.watches.fetch_sub(1, Ordering::AcqRel);
        let refusal = Refusal::new(ResponseCode::SYSTEM_BUSY, "too many route watches: poll the route instead");
        return peer.outbox.send(&refusal.answer(&request));
    }
    // The place goes with the task and comes back at its end.
    if let Ok(place) = place {
        place.forget();
    }
    tokio::spawn(hold(Arc::clone(server), Arc::clone(peer), request, asked));
}

async fn hold(server: Arc<Server>, peer: Arc<Peer>, request: RemotingCommand, asked: Asked) {
    let answer = tokio::select! {
        answer = asked.answer(&server, &request) => Some(answer),
        () = peer.outbox.closed() => None,
    };
    server.watches.add_permits(1);
    peer.watches.fetch_sub(1, Ordering::AcqRel);
    if let Some(answer) = answer {
        peer.outbox.send(&answer);
    }
}

struct Asked {
    topic: String,
    version: u64,
}

impl Asked {
    fn read(request: &RemotingCommand) -> Result<Self, Refusal> {
        let Some(topic) = request.ext.get(field::TOPIC) else {
            return Err(Refusal::invalid(format!("field {} is missing", field::TOPIC)));
        };
        ledgermq_protocol::names::check_topic(topic).map_err(|error| Refusal::invalid(error.to_string()))?;
        let version = request.ext.get(field::ROUTE_VERSION).unwrap_or("0");
        let Ok(version) = version.parse() else {
            return Err(Refusal::invalid(format!("field {} is not a 64-bit number", field::ROUTE_VERSION)));
        };
        Ok(Self { topic: topic.to_owned(), version })
    }

    /// The answer if there is something that the asker does not have.
    fn look(&self, server: &Server, request: &RemotingCommand) -> Option<Result<RemotingCommand, Refusal>> {
        let table = server.table.read();
        match table.route(&self.topic) {
            Some(route) if route.version == self.version => None,
            Some(route) => {
                let answer = RemotingCommand::response_to(request, ResponseCode::SUCCESS);
                Some(Ok(with_extension(answer.with_body(route.body.clone()), &route)))
            }
            // A topic that is gone is news only to who had it, and only if the brokers had the time to tell.
            None if self.version != 0 && server.is_ready(&table) => Some(Err(no_route(&self.topic))),
            None => None,
        }
    }

    async fn answer(&self, server: &Server, request: &RemotingCommand) -> RemotingCommand {
        let deadline = Instant::now() + Duration::from_millis(WATCH_HOLD_MS);
        let mut changes = server.changes.subscribe();
        loop {
            // Seen before the look: a change after it ends the wait.
            changes.mark_unchanged();
            if let Some(outcome) = self.look(server, request) {
                return outcome.unwrap_or_else(|refusal| refusal.answer(request));
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return self.unchanged(server, request);
            }
        }
    }

    /// The time is over: the same version again, without a body.
    fn unchanged(&self, server: &Server, request: &RemotingCommand) -> RemotingCommand {
        if self.version == 0 {
            let ready = server.is_ready(&server.table.read());
            return if ready { no_route(&self.topic) } else { Refusal::not_ready() }.answer(request);
        }
        let mut answer = RemotingCommand::response_to(request, ResponseCode::SUCCESS);
        answer.ext.insert_display(field::ROUTE_VERSION, self.version);
        answer
    }
}
