//! Replays the fuzzer's seeds of commands, whole, cut and with every byte changed in turn, through the fuzzer's law.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod command_law;

use std::collections::BTreeMap;
use std::path::Path;

use ledgermq_broker::command::{
    Command, CommitOffsets, DeleteSubscriptionGroup, DeleteTopic, Genesis, GroupSettings, LockQueues, Member,
    MoveTimers, OffsetCommit, PutSubscriptionGroup, PutTopic, QueueOfTopic, TimerRef, TopicSettings, TruncatePrefix,
    UnlockQueues,
};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/command");

/// One command of each kind with every field set, by the name of its seed.
fn commands() -> Vec<(&'static str, Command)> {
    let queue = QueueOfTopic { topic: "orders".into(), incarnation: 7, queue: 3 };
    let settings = TopicSettings {
        attributes: BTreeMap::from([("message.type".to_owned(), "FIFO".to_owned())]),
        ..TopicSettings::plain(4)
    };
    let put = PutTopic { topic: "orders".into(), settings, replace: true };
    let group = PutSubscriptionGroup { group: "billing".into(), settings: GroupSettings::standard(), replace: true };
    let member = Member {
        raft_id: 1,
        replica_id: vec![1; 16].into(),
        raft_address: "node-1:10912".into(),
        broker_address: "node-1:10911".into(),
    };
    let offset =
        OffsetCommit { group: "billing".into(), topic: "orders".into(), incarnation: 7, queue: 3, offset: 300 };
    let timer = |due_ms| TimerRef { due_ms, first_pos: 300 };
    vec![
        (
            "genesis.bin",
            Command::Genesis(Genesis {
                group_id: vec![2; 16].into(),
                cluster: "DefaultCluster".into(),
                broker_name: "broker-a".into(),
                segment_size: 1 << 30,
                log_format: 1,
                members: vec![member],
                topics: vec![put.clone()],
                groups: vec![group.clone()],
            }),
        ),
        ("put_topic.bin", Command::PutTopic(put)),
        ("delete_topic.bin", Command::DeleteTopic(DeleteTopic { topic: "orders".into() })),
        ("put_group.bin", Command::PutSubscriptionGroup(group)),
        (
            "delete_group.bin",
            Command::DeleteSubscriptionGroup(DeleteSubscriptionGroup { group: "billing".into(), clean_offsets: true }),
        ),
        ("commit_offsets.bin", Command::CommitOffsets(CommitOffsets { offsets: vec![offset.clone(), offset.clone()] })),
        ("reset_offsets.bin", Command::ResetOffsets(CommitOffsets { offsets: vec![offset.clone()] })),
        ("take_up_resets.bin", Command::TakeUpResets(CommitOffsets { offsets: vec![offset] })),
        (
            "lock_queues.bin",
            Command::LockQueues(LockQueues {
                group: "billing".into(),
                client_id: "10.0.0.1@7".into(),
                at_ms: 300,
                lease_ms: 60_000,
                queues: vec![queue.clone()],
            }),
        ),
        (
            "unlock_queues.bin",
            Command::UnlockQueues(UnlockQueues {
                group: "billing".into(),
                client_id: "10.0.0.1@7".into(),
                queues: vec![queue],
            }),
        ),
        ("truncate_prefix.bin", Command::TruncatePrefix(TruncatePrefix { index: 300, pos: 1 << 26 })),
        (
            "move_timers.bin",
            Command::MoveTimers(MoveTimers {
                delivered: vec![timer(1_700_000_000_000), timer(1_700_000_000_001)],
                carried: vec![timer(1_700_000_000_002)],
                dropped: vec![timer(1_700_000_000_003)],
            }),
        ),
    ]
}

/// A regression here is a replica that panics on a damaged or newer log, or one that applies another change than its peers.
#[test]
fn commands_and_their_mutations_obey_the_law() {
    for (name, command) in commands() {
        let bytes = command.encode();
        command_law::check(&bytes);
        for at in 0..bytes.len() {
            command_law::check(&bytes[..at]);
            for value in [0, 1, 0x7F, 0x80, 0xFF, bytes[at] ^ 1, bytes[at] ^ 0x80] {
                let mut mutated = bytes.to_vec();
                mutated[at] = value;
                command_law::check(&mutated);
            }
        }
        assert_eq!(Command::decode(1, bytes).unwrap(), command, "{name}");
    }
}

/// The folder holds every command above, and whatever the fuzzer once found. `LEDGERMQ_WRITE_SEEDS=1` writes the former.
#[test]
fn seeds_obey_the_law() {
    let folder = Path::new(SEEDS);
    for (name, command) in commands() {
        if std::env::var_os("LEDGERMQ_WRITE_SEEDS").is_some() {
            std::fs::write(folder.join(name), command.encode()).unwrap();
        }
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), command.encode(), "{name} is another command now");
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        command_law::check(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}
