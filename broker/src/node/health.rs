//! What the health page tells of a node.

use std::sync::Arc;

use ledgermq_dledger::{Role, Unfit};

use super::measures;
use crate::handler::raft_status::role_name;
use crate::http::{Readiness, ReadyReport};
use crate::replica::Replica;

/// How far the applied index may lie behind the committed one on a node that is ready: a moment's work.
const READY_LAG_MAX: u64 = 10_000;

/// A figure of a replica: name, help with its unit, value.
type Figure = (&'static str, &'static str, fn(&Replica) -> u64);

/// The replicas of a node.
pub(super) struct Health {
    pub(super) replicas: Vec<Arc<Replica>>,
}

impl Readiness for Health {
    async fn report(&self) -> ReadyReport {
        let mut ready = true;
        let mut text = String::new();
        for replica in &self.replicas {
            let role = replica.role();
            let lag = replica.handle.commit_index().saturating_sub(replica.tables().applied_index());
            let serves = match role.role {
                Role::Leader { ready } => ready,
                Role::Follower => role.leader.is_some(),
                Role::Candidate => false,
            };
            // Before the genesis is applied a replica knows no topic at all.
            let applied = lag <= READY_LAG_MAX && replica.tables().genesis().is_some();
            ready &= serves && applied && !replica.is_draining();
            let leader = role.leader.map_or("none".to_owned(), |leader| leader.to_string());
            let name = &replica.identity().broker_name;
            let role_name = role_name(role.role);
            text.push_str(&format!(
                "{name}: {role_name}, leader {leader}, term {}, {lag} entries to apply\n",
                role.term
            ));
        }
        ReadyReport { ready, text }
    }

    fn metrics(&self) -> String {
        metrics(&self.replicas)
    }
}

/// Figures of each group in the text format of Prometheus.
fn metrics(replicas: &[Arc<Replica>]) -> String {
    let gauges: [Figure; 16] = [
        ("ledgermq_leads", "1 when this replica leads and serves, else 0", |replica| u64::from(replica.serves())),
        (
            "ledgermq_abstains",
            "1 while this replica may lack what it has acknowledged and takes no part in elections, else 0",
            |replica| u64::from(replica.handle.unfit() == Some(Unfit::InDoubt)),
        ),
        (
            "ledgermq_unfit",
            "1 when this replica should not lead (disk hangs, clock off, in doubt), else 0",
            |replica| u64::from(replica.handle.unfit().is_some()),
        ),
        ("ledgermq_log_damaged_runs", "damaged parts of the log that are not mended yet", |replica| {
            replica.handle.scrub_counts().0
        }),
        ("ledgermq_disk_free_bytes", "free bytes of the disk under the data folder", |replica| {
            replica.room.free_bytes()
        }),
        ("ledgermq_term", "Raft term", |replica| replica.role().term),
        ("ledgermq_commit_index", "committed Raft index", |replica| replica.handle.commit_index()),
        ("ledgermq_applied_index", "applied Raft index", |replica| replica.tables().applied_index()),
        ("ledgermq_log_end_bytes", "position behind the last applied frame", |replica| {
            replica.tables().applied().end().0
        }),
        ("ledgermq_snapshot_bytes", "bytes of the snapshot that is being pulled; 0 when none is", |replica| {
            replica.handle.snapshots().total
        }),
        ("ledgermq_snapshot_missing_bytes", "bytes of it that are still missing", |replica| {
            replica.handle.snapshots().missing
        }),
        ("ledgermq_parked_pulls", "pulls that wait for a message", |replica| replica.pulls.len() as u64),
        ("ledgermq_buffered_offsets", "one-way offset commits that are not proposed yet", |replica| {
            replica.offsets.lock().len() as u64
        }),
        ("ledgermq_delayed_messages", "messages that wait for their time", |replica| replica.tables().waiting_timers()),
        (
            "ledgermq_delayed_latest_milliseconds",
            "the most by which a delayed message came late while this replica led",
            |replica| replica.timer.latest_ms(),
        ),
        ("ledgermq_live_consumer_groups", "consumer groups with a member", |replica| {
            replica.consumers.group_count() as u64
        }),
    ];
    let counters: [Figure; 11] = [
        (
            "ledgermq_log_mended_runs_total",
            "damaged parts of the log that were mended from another member",
            |replica| replica.handle.scrub_counts().1,
        ),
        ("ledgermq_log_scrubbed_bytes_total", "bytes of log that were read to find damage", |replica| {
            replica.handle.scrub_counts().2
        }),
        ("ledgermq_log_jobs_total", "write jobs with frames since the start", |replica| {
            replica.handle.log_costs().jobs
        }),
        ("ledgermq_log_frames_total", "frames written since the start", |replica| replica.handle.log_costs().frames),
        ("ledgermq_log_frame_bytes_total", "bytes of these frames", |replica| replica.handle.log_costs().frame_bytes),
        ("ledgermq_log_syncs_total", "fdatasync calls on segments of the log", |replica| {
            replica.handle.log_costs().syncs
        }),
        ("ledgermq_snapshots_total", "snapshots of other replicas that have come since the start", |replica| {
            replica.handle.snapshots().taken
        }),
        ("ledgermq_snapshot_pulled_bytes_total", "bytes of snapshots pulled from other replicas", |replica| {
            replica.handle.snapshots().bytes
        }),
        ("ledgermq_delayed_delivered_total", "delayed messages delivered while this replica led", |replica| {
            replica.timer.delivered()
        }),
        ("ledgermq_delayed_late_milliseconds_total", "sum of the times by which they came late", |replica| {
            replica.timer.late_ms()
        }),
        ("ledgermq_log_meta_syncs_total", "fdatasync calls on the meta file of the log", |replica| {
            replica.handle.log_costs().meta_syncs
        }),
    ];
    let mut text = String::new();
    let figures =
        gauges.iter().map(|figure| (figure, "gauge")).chain(counters.iter().map(|figure| (figure, "counter")));
    for ((name, help, value), kind) in figures {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for replica in replicas {
            let broker_name = &replica.identity().broker_name;
            text.push_str(&format!("{name}{{broker_name=\"{broker_name}\"}} {}\n", value(replica)));
        }
    }
    measures::write(replicas, &mut text);
    text
}
