use std::collections::BTreeMap;

use super::*;

/// What a replica wrote to its log years ago must still be read as the same change.
#[test]
fn golden_bytes() {
    let put = Command::PutTopic(PutTopic {
        topic: "T".to_owned(),
        settings: TopicSettings {
            attributes: BTreeMap::from([("message.type".to_owned(), "FIFO".to_owned())]),
            ..TopicSettings::plain(4)
        },
        replace: true,
    });
    let mut expected = vec![2, 0, 1, 0];
    expected.extend(b"\x0a\x01T\x12\x1c\x08\x04\x10\x04\x18\x06\x3a\x14\x0a\x0cmessage.type\x12\x04FIFO\x18\x01");
    assert_eq!(put.encode(), expected);

    let commit = Command::CommitOffsets(CommitOffsets {
        offsets: vec![OffsetCommit { group: "g".into(), topic: "T".into(), incarnation: 7, queue: 3, offset: 300 }],
    });
    assert_eq!(commit.encode(), &b"\x06\0\x01\0\x0a\x0d\x0a\x01g\x12\x01T\x18\x07\x20\x03\x28\xac\x02"[..]);

    let lock = Command::LockQueues(LockQueues {
        group: "g".into(),
        client_id: "c".into(),
        at_ms: 300,
        lease_ms: 60_000,
        queues: vec![QueueOfTopic { topic: "T".into(), incarnation: 7, queue: 3 }],
    });
    let mut expected = vec![7, 0, 1, 0];
    expected.extend(b"\x0a\x01g\x12\x01c\x18\xac\x02\x20\xe0\xd4\x03\x2a\x07\x0a\x01T\x10\x07\x18\x03");
    assert_eq!(lock.encode(), expected);

    // docs/formats.md shows these.
    let formats = include_str!("../../../docs/formats.md");
    let shown = formats.split("```hex commands\n").nth(1).unwrap().split("```").next().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    assert_eq!(shown.lines().collect::<Vec<_>>(), [put, commit, lock].map(|command| hex(&command.encode())));

    let delete = Command::DeleteTopic(DeleteTopic { topic: "T".into() });
    assert_eq!(delete.encode(), &b"\x03\0\x01\0\x0a\x01T"[..]);

    let truncate = Command::TruncatePrefix(TruncatePrefix { index: 300, pos: 1 << 26 });
    assert_eq!(truncate.encode(), &b"\x09\0\x01\0\x08\xac\x02\x10\x80\x80\x80\x20"[..]);

    let timer = |due_ms| TimerRef { due_ms, first_pos: 300 };
    let timers = MoveTimers { delivered: vec![timer(1)], carried: vec![timer(2)], dropped: vec![timer(3)] };
    let expected = b"\x0a\0\x01\0\x0a\x05\x08\x01\x10\xac\x02\x12\x05\x08\x02\x10\xac\x02\x1a\x05\x08\x03\x10\xac\x02";
    assert_eq!(Command::MoveTimers(timers).encode(), &expected[..]);

    let offset = OffsetCommit { group: "g".into(), topic: "T".into(), incarnation: 7, queue: 3, offset: 300 };
    let offsets = CommitOffsets { offsets: vec![offset] };
    let reset = Command::ResetOffsets(offsets.clone());
    assert_eq!(reset.encode(), &b"\x10\0\x01\0\x0a\x0d\x0a\x01g\x12\x01T\x18\x07\x20\x03\x28\xac\x02"[..]);
    let taken = Command::TakeUpResets(offsets);
    assert_eq!(taken.encode(), &b"\x11\0\x01\0\x0a\x0d\x0a\x01g\x12\x01T\x18\x07\x20\x03\x28\xac\x02"[..]);
}

/// A command of a newer program must stop an old one, not be half applied.
#[test]
fn unknown_kinds_and_versions_stop() {
    let kind_of = |bytes: &'static [u8]| match Command::decode(9, Bytes::from_static(bytes)) {
        Err(ApplyError::UnknownCommand { index: 9, kind }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind_of(b"\x0b\0\x01\0"), 0x1_000b);
    assert_eq!(kind_of(b"\0\0\x01\0"), 0x1_0000);
    assert_eq!(kind_of(b"\x03\0\x02\0\x0a\x01T"), 0x2_0003);
    for bad in [&b""[..], b"\x03\0\x01", b"\x03\0\x01\0\x0a\x09T", b"\x03\0\x01\0", b"\x03\0\x01\0\x0a\x03a/b"] {
        assert!(matches!(Command::decode(9, Bytes::from_static(bad)), Err(ApplyError::Malformed { index: 9, .. })));
    }
}

/// Every kind survives its way through the log.
#[test]
fn round_trip() {
    let uuid = Bytes::from_static(&[7; 16]);
    let commands = [
        Command::Genesis(Genesis {
            group_id: uuid.clone(),
            cluster: "c".into(),
            broker_name: "broker-a".into(),
            segment_size: 1 << 26,
            log_format: 1,
            members: vec![Member {
                raft_id: 1,
                replica_id: uuid,
                raft_address: "127.0.0.1:10912".into(),
                broker_address: "127.0.0.1:10911".into(),
            }],
            topics: vec![PutTopic { topic: "TBW102".into(), settings: TopicSettings::plain(8), replace: false }],
            groups: vec![],
        }),
        Command::PutSubscriptionGroup(PutSubscriptionGroup {
            group: "g".into(),
            settings: GroupSettings::standard(),
            replace: false,
        }),
        Command::DeleteSubscriptionGroup(DeleteSubscriptionGroup { group: "g".into(), clean_offsets: true }),
        Command::CommitOffsets(CommitOffsets { offsets: Vec::new() }),
        Command::ResetOffsets(CommitOffsets { offsets: Vec::new() }),
        Command::TakeUpResets(CommitOffsets { offsets: Vec::new() }),
        Command::TruncatePrefix(TruncatePrefix { index: 2, pos: 1 << 30 }),
        Command::UnlockQueues(UnlockQueues {
            group: "g".into(),
            client_id: "c".into(),
            queues: vec![QueueOfTopic { topic: "T".into(), incarnation: 7, queue: 3 }],
        }),
    ];
    for command in commands {
        command.check().unwrap();
        assert_eq!(Command::decode(1, command.encode()).unwrap(), command);
    }
}

/// Names become folders and keys, counts become memory: limits hold before anything is proposed.
#[test]
fn limits() {
    let put = |topic: &str, settings| {
        Command::PutTopic(PutTopic { topic: topic.to_owned(), settings, replace: false }).check()
    };
    assert_eq!(put("T", TopicSettings::plain(settings::QUEUES_PER_TOPIC_MAX)), Ok(()));
    for queues in [0, settings::QUEUES_PER_TOPIC_MAX + 1] {
        assert!(matches!(put("T", TopicSettings::plain(queues)), Err(CommandError::Settings(_))));
    }
    assert!(put("T", TopicSettings { perm: 16, ..TopicSettings::plain(1) }).is_err());
    assert!(matches!(put("a/../b", TopicSettings::plain(1)), Err(CommandError::Name(_))));
    let commit = OffsetCommit { group: "g".into(), topic: "T".into(), incarnation: 1, queue: 0, offset: 0 };
    let commits = |count| Command::CommitOffsets(CommitOffsets { offsets: vec![commit.clone(); count] });
    assert_eq!(commits(OFFSETS_PER_COMMAND_MAX).check(), Ok(()));
    assert!(commits(OFFSETS_PER_COMMAND_MAX + 1).check().is_err());

    let longest = OffsetCommit {
        group: "g".repeat(120),
        topic: format!("%RETRY%{}", "t".repeat(248)),
        incarnation: u64::MAX,
        queue: u32::MAX,
        offset: i64::MAX as u64,
    };
    let locked = QueueOfTopic { topic: longest.topic.clone(), incarnation: u64::MAX, queue: u32::MAX };
    let lock = |count: usize, client: usize, lease_ms| {
        Command::LockQueues(LockQueues {
            group: "g".repeat(120),
            client_id: "c".repeat(client),
            at_ms: u64::MAX,
            lease_ms,
            queues: vec![locked.clone(); count],
        })
    };
    let most = lock(LOCKS_PER_COMMAND_MAX, LOCK_CLIENT_LEN_MAX, LEASE_MS_MAX);
    most.check().unwrap();
    assert!(most.encode().len() <= COMMAND_LEN_MAX);
    assert!(lock(LOCKS_PER_COMMAND_MAX + 1, 1, 1).check().is_err());
    assert!(lock(1, LOCK_CLIENT_LEN_MAX + 1, 1).check().is_err() && lock(1, 0, 1).check().is_err());
    assert!(lock(1, 1, 0).check().is_err() && lock(1, 1, LEASE_MS_MAX + 1).check().is_err());

    let timer = |n| TimerRef { due_ms: u64::MAX, first_pos: u64::MAX - n };
    let drop = |dropped| Command::MoveTimers(MoveTimers { dropped, ..MoveTimers::default() });
    let most = drop((0..TIMERS_PER_COMMAND_MAX as u64).map(timer).collect());
    most.check().unwrap();
    assert!(most.encode().len() <= COMMAND_LEN_MAX);
    assert!(drop((0..=TIMERS_PER_COMMAND_MAX as u64).map(timer).collect()).check().is_err());
    assert!(drop(vec![timer(0), timer(1), timer(0)]).check().is_err(), "one message cannot be ended twice");

    let full = Command::CommitOffsets(CommitOffsets { offsets: vec![longest; OFFSETS_PER_COMMAND_MAX] });
    full.check().unwrap();
    assert!(full.encode().len() <= COMMAND_LEN_MAX);
}
