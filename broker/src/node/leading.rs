//! Planned changes of leadership: the hand-over before a stop, and back to the member that should lead.
//!
//! A hand-over fails no request: for its moment the [gate](crate::replica::Gate) keeps those that come, and afterwards
//! [`crate::server::forward`] passes them on.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ledgermq_dledger::{RaftId, Role};

use crate::replica::Replica;
use crate::server::forward::Forwarder;

/// How long the handlers that have passed the gate may take to hand their proposals over.
const SETTLE: Duration = Duration::from_millis(5);

/// How long a hand-over waits for one-way offset commits to be in the log. A lost one is repeated by its consumer.
const OFFSETS_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a hand-over may take: Raft itself gives it up after 500 ms.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a leader looks whether the preferred one is well.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks in a row that must find it well: a node that comes and goes must not carry the leadership with it.
const WELL_LOOKS: u32 = 5;

/// Looks in a row in which it may have been silent: Raft forgets twice a second whom it has heard.
const SILENT_LOOKS_MAX: u32 = 2;

/// How often a leader looks whether it is fit to lead.
const FIT_INTERVAL: Duration = Duration::from_millis(200);

/// Looks in a row that must find it unfit: after a pause of the process everything seems late for a moment.
const UNFIT_LOOKS: u32 = 5;

/// Looks after which a leader without room looks for a member with room again.
const FULL_LOOKS: u32 = 10;

/// Entries by which it may lie behind.
const LAG_MAX: u64 = 1_000;

/// Looks for which a preferred leader is left alone after a hand-over to it has failed.
const REST_LOOKS: u32 = 30;

/// A client that has sent nothing for so long has another address by now.
const QUIET: Duration = Duration::from_secs(5);

/// How often a draining node looks whether it may leave.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Hands the leadership of a group to one member. Returns whether this replica no longer leads.
async fn hand_over(replica: &Replica, to: RaftId, why: &str) -> bool {
    let mut role = replica.handle.watch_role();
    let began = Instant::now();
    // Opened again also when this is given up half-way: a second signal, the end of the node.
    let closed = replica.gate.close();
    tokio::time::sleep(SETTLE).await;
    let _ = tokio::time::timeout(OFFSETS_TIMEOUT, replica.flush_all_offsets()).await;
    let asked = replica.handle.transfer_leader(to);
    let gone = role.wait_for(|view| !matches!(view.role, Role::Leader { .. }));
    let handed_over = asked && tokio::time::timeout(HAND_OVER_TIMEOUT, gone).await.is_ok_and(|gone| gone.is_ok());
    drop(closed);
    let ms = began.elapsed().as_millis() as u64;
    tracing::info!(broker_name = %replica.identity().broker_name, to, handed_over, ms, why, "leadership to be handed over");
    handed_over
}

/// Hands the leadership to whoever can take it best, if this replica leads and there is somebody.
/// Returns whether this replica leads no more.
pub(super) async fn hand_over_to_any(replica: &Replica, forwarder: &Forwarder, why: &str) -> bool {
    hand_over_to_other(replica, forwarder, &[], why).await
}

/// Hands the leadership to this member, if it would take it.
pub(crate) async fn hand_over_to(replica: &Replica, forwarder: &Forwarder, to: RaftId, why: &str) -> bool {
    forwarder.may_lead(to).await && hand_over(replica, to, why).await
}

/// As [`hand_over_to_any`], but to none of `not_to`.
pub(crate) async fn hand_over_to_other(replica: &Replica, forwarder: &Forwarder, not_to: &[RaftId], why: &str) -> bool {
    if !matches!(replica.role().role, Role::Leader { .. }) {
        return true;
    }
    let Some(status) = replica.handle.status().await else { return false };
    let mut peers: Vec<_> =
        status.peers.iter().filter(|peer| status.membership.voters.contains(&peer.raft_id)).collect();
    peers.retain(|peer| !not_to.contains(&peer.raft_id));
    // One that was silent this half second may still be well; it is asked last.
    peers.sort_by_key(|peer| Reverse((peer.active, peer.matched)));
    for peer in peers {
        if forwarder.may_lead(peer.raft_id).await && hand_over(replica, peer.raft_id, why).await {
            return true;
        }
    }
    false
}

/// While this replica leads in the place of `preferred`: hands over once that member has been well for a while. Runs until the
/// task is aborted.
pub(super) async fn give_back(replica: Arc<Replica>, forwarder: Arc<Forwarder>, preferred: RaftId) {
    let (mut well, mut silent, mut rest) = (0, 0, 0_u32);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        rest = rest.saturating_sub(1);
        if rest > 0 || !replica.serves() || replica.is_draining() {
            well = 0;
            continue;
        }
        let Some(status) = replica.handle.status().await else { return };
        let peer = status.peers.iter().find(|peer| peer.raft_id == preferred);
        silent = if peer.is_some_and(|peer| peer.active) { 0 } else { silent + 1 };
        let follows = peer.is_some_and(|peer| peer.matched + LAG_MAX >= status.last.index);
        well = if follows && silent <= SILENT_LOOKS_MAX { well + 1 } else { 0 };
        if well < WELL_LOOKS {
            continue;
        }
        well = 0;
        let handed_over =
            forwarder.may_lead(preferred).await && hand_over(&replica, preferred, "it is to lead by preference").await;
        if !handed_over {
            rest = REST_LOOKS;
        }
    }
}

/// Hands the leadership over while this replica is unfit to lead, or has no room on its disk. Runs until the task is aborted.
pub(super) async fn step_aside(replica: Arc<Replica>, forwarder: Arc<Forwarder>) {
    let (mut unfit_looks, mut full_looks) = (0, 0_u32);
    let mut looks = tokio::time::interval(FIT_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let leads = matches!(replica.role().role, Role::Leader { .. });
        let unfit = replica.handle.unfit().filter(|_| leads);
        unfit_looks = if unfit.is_some() { unfit_looks + 1 } else { 0 };
        if let Some(unfit) = unfit
            && unfit_looks >= UNFIT_LOOKS
        {
            unfit_looks = 0;
            tracing::warn!(broker_name = %replica.identity().broker_name, %unfit, "this replica should not lead");
            hand_over_to_any(&replica, &forwarder, "this replica is unfit to lead").await;
        }
        if !leads || !replica.room.is_low() {
            full_looks = 0;
            replica.refuses_sends.store(false, Ordering::Relaxed);
        } else {
            if full_looks.is_multiple_of(FULL_LOOKS) {
                let alone = !hand_over_to_any(&replica, &forwarder, "this disk is full").await;
                replica.refuses_sends.store(alone, Ordering::Relaxed);
            }
            full_looks += 1;
        }
    }
}

/// Leads no more, and goes on passing requests to those who do: until no client has sent one for a while, at most `linger`.
pub(super) async fn drain(groups: &[(Arc<Replica>, Arc<Forwarder>)], linger: Duration) {
    for (replica, _) in groups {
        replica.draining.store(true, Ordering::Release);
    }
    let began = Instant::now();
    loop {
        for (replica, forwarder) in groups {
            // Again, should the successor have died meanwhile.
            hand_over_to_any(replica, forwarder, "this node stops").await;
        }
        let quiet = groups.iter().all(|(_, forwarder)| forwarder.unasked_for().is_none_or(|since| since >= QUIET));
        if quiet || began.elapsed() >= linger {
            tracing::info!(ms = began.elapsed().as_millis() as u64, quiet, "drained");
            return;
        }
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}
