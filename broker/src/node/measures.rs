//! Latencies, batch sizes and elections of each group in the text format of Prometheus, with the unit in each name.

use std::fmt::Write;
use std::sync::Arc;

use ledgermq_dledger::Distribution;
use ledgermq_dledger::group::ElectionReason;

use crate::replica::Replica;

/// The buckets told end below powers of two from 16 on to 2^25: half a minute in microseconds, more than a frame in bytes.
const POWERS: std::ops::RangeInclusive<u32> = 4..=25;

/// A histogram of a replica: name, help, values.
type Figure = (&'static str, &'static str, fn(&Replica) -> Distribution);

const HISTOGRAMS: [Figure; 5] = [
    (
        "ledgermq_append_latency_microseconds",
        "on a leader, from the stamping of a round's frames to their being durable in its own log",
        |replica| replica.handle.measures().append_us.read(),
    ),
    (
        "ledgermq_replication_latency_microseconds",
        "on a leader, from the sending of a round's frames to their commit by a quorum's answers",
        |replica| replica.handle.measures().replicate_us.read(),
    ),
    ("ledgermq_fdatasync_microseconds", "each fdatasync of a segment of the log", |replica| replica.handle.sync_us()),
    ("ledgermq_batch_records", "records in each frame of messages that was stamped here", |replica| {
        replica.handle.measures().batch_records.read()
    }),
    ("ledgermq_batch_bytes", "bytes of payload in each frame that was stamped here", |replica| {
        replica.handle.measures().batch_bytes.read()
    }),
];

/// A count of elections: name, help, value for a reason.
type Elections = (&'static str, &'static str, fn(&Replica, ElectionReason) -> u64);

const ELECTIONS: [Elections; 2] = [
    (
        "ledgermq_elections_stood_total",
        "elections that this replica stood for since the start, pre-votes included",
        |replica, reason| replica.handle.measures().stood(reason),
    ),
    ("ledgermq_elections_won_total", "elections that it won", |replica, reason| replica.handle.measures().won(reason)),
];

/// Appends them.
pub(super) fn write(replicas: &[Arc<Replica>], text: &mut String) {
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes everything");
    for (name, help, read) in HISTOGRAMS {
        line(format_args!("# HELP {name} {help}\n# TYPE {name} histogram"));
        for replica in replicas {
            let broker = &replica.identity().broker_name;
            let read = read(replica);
            for power in POWERS {
                let (top, count) = ((1u64 << power) - 1, read.below_power(power));
                line(format_args!("{name}_bucket{{broker_name=\"{broker}\",le=\"{top}\"}} {count}"));
            }
            line(format_args!("{name}_bucket{{broker_name=\"{broker}\",le=\"+Inf\"}} {}", read.count));
            line(format_args!("{name}_sum{{broker_name=\"{broker}\"}} {}", read.sum));
            line(format_args!("{name}_count{{broker_name=\"{broker}\"}} {}", read.count));
        }
    }
    for (name, help, value) in ELECTIONS {
        line(format_args!("# HELP {name} {help}\n# TYPE {name} counter"));
        for replica in replicas {
            let broker = &replica.identity().broker_name;
            for reason in ElectionReason::ALL {
                let (word, value) = (reason.name(), value(replica, reason));
                line(format_args!("{name}{{broker_name=\"{broker}\",reason=\"{word}\"}} {value}"));
            }
        }
    }
}
