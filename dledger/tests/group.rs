//! Single rounds of a group, message by message: orders of events that real threads and the simulator rarely meet.
//! Every member is a [`GroupCore`] with a real log; what it sends waits here until the test hands it on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::group::{Clock, ElectionReason, GroupCore, GroupTuning, Outputs, WriteTask};
use ledgermq_dledger::log::LogWriter;
use ledgermq_dledger::log::meta::{GroupConstants, Identity, Member};
use ledgermq_dledger::replica::{self, OpenReplica, Supply};
use ledgermq_dledger::transport::codec::PeerMessage;
use ledgermq_dledger::{
    AppliedState, Applier, ApplyError, Frame, FrameKind, FramePos, GroupId, LogPos, Membership, Outcome, Proposal,
    Role, Stamper, StateMachine, Unfit, Verdict, log_io,
};
use raft::eraftpb::{Message, MessageType};
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(1);
const GROUP: GroupId = GroupId(Uuid::from_u128(2));

const START: Clock = Clock { mono: Duration::ZERO, wall_ms: 1_700_000_000_000 };

/// Payloads as they come; an empty one joins the entry before it.
struct Plain {
    /// The time that the last item was stamped with.
    stamped_ms: Arc<AtomicU64>,
}

impl Stamper for Plain {
    type Item = Bytes;
    type Ticket = usize;
    type Answer = u64;

    fn kind(&self, _item: &Bytes) -> FrameKind {
        FrameKind::Command
    }
    fn admit(&mut self, item: &mut Bytes, index: u64, now_ms: u64) -> Verdict<u64> {
        self.stamped_ms.store(now_ms, Ordering::Relaxed);
        match item.len() {
            0 => Verdict::Join { index: index - 1, answer: index - 1 },
            len => Verdict::Take { len, records: 0 },
        }
    }
    fn precede(&mut self, _item: &mut Bytes, _index: u64, _now_ms: u64) -> Bytes {
        unreachable!("nothing asks for it")
    }
    fn write(&mut self, item: &mut Bytes, _at: LogPos, out: &mut BytesMut) {
        out.extend_from_slice(item);
    }
    fn answer(&mut self, _item: Bytes, index: u64) -> u64 {
        index
    }
    fn begin(&mut self, _term: u64) -> Option<Bytes> {
        None
    }
    fn end(&mut self) {}
}

#[derive(Default)]
struct Nothing(FramePos);

impl StateMachine for Nothing {
    fn applied(&self) -> AppliedState {
        AppliedState { at: self.0, membership: None }
    }
    fn replay_from(&self) -> u64 {
        self.0.index
    }
    fn apply(&mut self, _frame: &Frame) -> Result<(), ApplyError> {
        Ok(())
    }
    fn commit_round(&mut self, applied: FramePos, _membership: Option<&Membership>) -> Result<(), ApplyError> {
        self.0 = applied;
        Ok(())
    }
    fn flush(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }
    fn flush_due(&self) -> bool {
        false
    }
    fn digest(&self) -> Result<u64, ApplyError> {
        Ok(0)
    }
}

struct One {
    core: GroupCore<Plain>,
    writer: LogWriter,
    applier: Applier<Nothing>,
    /// Nothing is applied meanwhile.
    apply_stands: bool,
    /// Nothing is written meanwhile; it waits.
    disk_stands: bool,
    waiting: Vec<WriteTask>,
    clock: Clock,
    stamped_ms: Arc<AtomicU64>,
    done: Vec<(usize, Outcome<u64>)>,
    sent: Vec<PeerMessage>,
}

impl One {
    fn open(dir: &Path, n: u64, tuning: GroupTuning) -> One {
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let member = |raft_id| Member { raft_id, replica: Uuid::from_u128(100 + u128::from(raft_id)) };
        let identity = Identity { cluster_id: CLUSTER, group: GROUP, replica: member(n).replica, raft_id: n };
        let constants = GroupConstants { segment_size: 1 << 20, format: 1 };
        let dir = dir.join(n.to_string());
        replica::create(&fs, &dir, identity, constants, (1..=3).map(member).collect()).unwrap();
        let params = OpenReplica {
            fs: &fs,
            dir: &dir,
            expected: (CLUSTER, GROUP),
            boot_id: Uuid::nil(),
            supply: Supply::Inline,
            tuning,
            seed: n,
            addresses: std::collections::BTreeMap::new(),
            clock: START,
        };
        let stamped_ms = Arc::default();
        let layer = || (Plain { stamped_ms: Arc::clone(&stamped_ms) }, Nothing::default());
        let opened = replica::open(params, |_, _| Ok(layer())).unwrap();
        let (core, writer, applier) = (opened.core, opened.writer, opened.applier);
        One {
            core,
            writer,
            applier,
            apply_stands: false,
            disk_stands: false,
            waiting: Vec::new(),
            clock: START,
            stamped_ms,
            done: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Rounds until nothing moves; the disk and the state machine are quick.
    fn settle(&mut self) {
        loop {
            let mut out = Outputs::default();
            self.core.poll(self.clock, &mut out).unwrap();
            self.done.append(&mut out.done);
            let idle = out.writes.is_empty() && out.applies.is_empty() && out.messages.is_empty();
            self.sent.append(&mut out.messages);
            self.waiting.append(&mut out.writes);
            if !self.disk_stands
                && let Some((number, durable)) =
                    log_io::carry_out(&mut self.writer, &std::mem::take(&mut self.waiting)).unwrap()
            {
                self.core.written(number, durable);
            }
            for task in out.applies.iter().filter(|_| !self.apply_stands) {
                let at = self.applier.run(task).unwrap();
                self.core.applied(at);
            }
            if idle {
                return;
            }
        }
    }

    fn leads(&self) -> bool {
        matches!(self.core.role().role, Role::Leader { ready: true })
    }

    fn propose(&mut self, ticket: usize, item: &'static [u8]) {
        self.core.propose(Proposal { item: Bytes::from_static(item), ticket, size_hint: 1 });
    }
}

/// Hands messages on among `members` (numbers) until none is left; those to others are lost.
fn exchange(all: &mut [One], members: &[u64]) {
    loop {
        let mut moving = Vec::new();
        for n in members {
            let one = &mut all[*n as usize - 1];
            one.settle();
            moving.append(&mut one.sent);
        }
        moving.retain(|message| members.contains(&message.raft.to));
        if moving.is_empty() {
            return;
        }
        moving.into_iter().for_each(|message| all[message.raft.to as usize - 1].core.step(message));
    }
}

/// Ticks `members` until one of them leads, and returns its number.
fn elect(all: &mut [One], members: &[u64]) -> u64 {
    for _ in 0..200 {
        members.iter().for_each(|n| all[*n as usize - 1].core.tick());
        exchange(all, members);
        if let Some(leader) = members.iter().find(|n| all[**n as usize - 1].leads()) {
            return *leader;
        }
    }
    panic!("nobody was elected");
}

fn three(dir: &Path, tuning: &GroupTuning) -> Vec<One> {
    (1..=3).map(|n| One::open(dir, n, tuning.clone())).collect()
}

/// In one round a leader hears an answer that makes it send an entry, and the append of its successor that replaces this
/// entry: what happens after a pause of the process. The entry has no frame any more, and the replica must not stop.
#[test]
fn a_deposed_leader_forgets_what_it_was_about_to_send() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path(), &GroupTuning::default());
    let old = elect(&mut all, &[1, 2, 3]);
    let others: Vec<u64> = (1..=3).filter(|n| *n != old).collect();
    let term = all[old as usize - 1].core.role().term;

    let alone = &mut all[old as usize - 1];
    alone.propose(7, b"never committed");
    alone.settle();
    alone.sent.clear();
    let new = elect(&mut all, &others);

    // The successor's next heartbeat finds that the old leader lacks its first entry.
    let mut answer = Message { from: others[0], to: old, term, ..Message::default() };
    answer.set_msg_type(MessageType::MsgHeartbeatResponse);
    let answer = PeerMessage { group: GROUP, run: 1, raft: answer, frames: Vec::new(), wall_ms: 0 };
    let mut conflict = None;
    while conflict.is_none() {
        let successor = &mut all[new as usize - 1];
        successor.core.tick();
        let mut alive = Message { from: old, to: new, term: successor.core.role().term, ..Message::default() };
        alive.set_msg_type(MessageType::MsgHeartbeatResponse);
        successor.core.step(PeerMessage { group: GROUP, run: 1, raft: alive, frames: Vec::new(), wall_ms: 0 });
        successor.settle();
        conflict = successor.sent.drain(..).find(|it| it.raft.to == old && !it.frames.is_empty());
    }
    let alone = &mut all[old as usize - 1];
    alone.core.unreachable(others[0]);
    alone.core.step(answer);
    alone.core.step(conflict.unwrap());
    alone.settle();
    assert!(!alone.leads());
    exchange(&mut all, &[1, 2, 3]);
    let last: Vec<u64> = all.iter().map(|one| one.core.last_index()).collect();
    assert_eq!(last, [last[0]; 3]);
}

/// A replica that is behind in applying does not campaign, but it must vote: with its leader gone it is half of what is left.
#[test]
fn a_replica_behind_in_applying_still_votes() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = GroupTuning { apply_lag_bytes_max: 200, ..GroupTuning::default() };
    let mut all = three(dir.path(), &tuning);
    let old = elect(&mut all, &[1, 2, 3]);
    let others: Vec<u64> = (1..=3).filter(|n| *n != old).collect();
    all[others[1] as usize - 1].apply_stands = true;
    for ticket in 0..10 {
        all[old as usize - 1].propose(ticket, b"some bytes for a frame");
        all[old as usize - 1].core.tick();
        exchange(&mut all, &[1, 2, 3]);
    }
    assert_eq!(elect(&mut all, &others), others[0]);
}

/// Two creations of one thing in the same round share its entry; both are told so.
#[test]
fn a_proposal_joins_an_entry_of_its_own_round() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path(), &GroupTuning::default());
    let leader = elect(&mut all, &[1, 2, 3]);
    all[leader as usize - 1].propose(1, b"longer than its size hint");
    all[leader as usize - 1].propose(2, b"");
    exchange(&mut all, &[1, 2, 3]);
    let index = all[leader as usize - 1].core.last_index();
    let expected = [(1, Outcome::Answered(index)), (2, Outcome::Answered(index))];
    assert_eq!(all[leader as usize - 1].done, expected);
}

/// A leader whose disk finishes nothing, or whose clock is off, must say so, and must not be elected again; the others commit
/// without its disk meanwhile.
#[test]
fn an_unfit_replica_says_so_and_takes_no_leadership() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path(), &GroupTuning::default());
    let old = elect(&mut all, &[1, 2, 3]) as usize - 1;
    all[old].disk_stands = true;
    all[old].propose(1, b"by the others' disks");
    exchange(&mut all, &[1, 2, 3]);
    assert!(matches!(all[old].done[..], [(1, Outcome::Answered(_))]), "{:?}", all[old].done);
    assert_eq!(all[old].core.unfit(), None, "a moment is no hang");
    all.iter_mut().for_each(|one| one.clock.mono += GroupTuning::default().disk_hang);
    exchange(&mut all, &[1, 2, 3]);
    assert_eq!(all[old].core.unfit(), Some(Unfit::DiskHangs));
    assert!(all[old].leads(), "the layer above hands over");

    let next = (old + 1) % 3;
    all[old].core.transfer_leader(next as u64 + 1);
    exchange(&mut all, &[1, 2, 3]);
    assert!(all[next].leads());
    all[next].core.transfer_leader(old as u64 + 1);
    for _ in 0..20 {
        all[next].core.tick();
        exchange(&mut all, &[1, 2, 3]);
    }
    assert!(all[next].leads(), "a hanging disk takes no hand-over");

    // It comes back, and another one is an hour ahead of the others, by the words of their heartbeats.
    all[old].disk_stands = false;
    all[next].clock.wall_ms += 3_600_000;
    for _ in 0..10 {
        all.iter_mut().for_each(|one| one.clock.mono += Duration::from_millis(500));
        all[next].core.tick();
        exchange(&mut all, &[1, 2, 3]);
    }
    assert_eq!(all[next].core.unfit(), Some(Unfit::ClockOff));
    let third = (old + 2) % 3;
    assert_eq!(all[third].core.unfit(), None);
    assert!(all[third].core.clock_off_ms().is_none_or(|ms| ms < 1_000), "{:?}", all[third].core.clock_off_ms());
}

/// A leader whose wall clock is set an hour ahead, or back, stamps its very next message by the time of the others, and knows that
/// it must not lead; and a process that has stood still does not take the others' clocks for fast ones.
#[test]
fn a_leader_whose_clock_is_set_stamps_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path(), &GroupTuning::default());
    let leader = elect(&mut all, &[1, 2, 3]) as usize - 1;
    let pass = |all: &mut Vec<One>, ms: u64| {
        for one in all.iter_mut() {
            one.clock.mono += Duration::from_millis(ms);
            one.clock.wall_ms += ms;
        }
    };
    pass(&mut all, 20_000);
    all.iter_mut().for_each(|one| one.core.tick());
    exchange(&mut all, &[1, 2, 3]);
    for set_by in [3_600_000, -7_200_000] {
        for _ in 0..4 {
            pass(&mut all, 1_000);
            all[leader].core.tick();
            exchange(&mut all, &[1, 2, 3]);
        }
        all[leader].clock.wall_ms = all[leader].clock.wall_ms.checked_add_signed(set_by).unwrap();
        all[leader].propose(1, b"by the true time");
        all[leader].settle();
        let (stamped, truth) = (all[leader].stamped_ms.load(Ordering::Relaxed), all[(leader + 1) % 3].clock.wall_ms);
        assert!(stamped.abs_diff(truth) < 1_000, "stamped {stamped} at {truth}");
        assert_eq!(all[leader].core.unfit(), Some(Unfit::ClockOff));
        exchange(&mut all, &[1, 2, 3]);
    }

    // After a pause, what a process finds waiting is heard by the time of now: nobody's clock is taken for a fast one.
    let slept = (leader + 1) % 3;
    pass(&mut all, 20_000);
    let clock = all[slept].clock;
    all[slept].core.set_clock(clock);
    for from in (1..=3).filter(|n| *n as usize - 1 != slept) {
        let mut word = Message { from, to: slept as u64 + 1, term: all[slept].core.role().term, ..Message::default() };
        word.set_msg_type(MessageType::MsgHeartbeatResponse);
        let frames = Vec::new();
        all[slept].core.step(PeerMessage { group: GROUP, run: 1, raft: word, frames, wall_ms: clock.wall_ms });
    }
    assert_eq!(all[slept].core.clock_off_ms(), Some(0));
}

/// A slow disk must show in another figure than slow followers, and each election with its reason: an operator who looks for what is
/// slow would mend the wrong thing.
#[test]
fn a_group_measures_its_rounds_and_elections() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path(), &GroupTuning::default());
    let first = elect(&mut all, &[1, 2, 3]) as usize - 1;
    let measures: Vec<_> = all.iter().map(|one| one.core.measures()).collect();
    let won = |n: usize| measures[n].last_won().map(|(_, reason)| reason);
    assert_eq!(won(first), Some(ElectionReason::Start));

    let pass = |all: &mut Vec<One>, ms| all.iter_mut().for_each(|one| one.clock.mono += Duration::from_millis(ms));
    let item = b"some bytes for a frame";
    all[first].disk_stands = true;
    all[first].propose(1, item);
    all[first].settle();
    pass(&mut all, 3);
    exchange(&mut all, &[1, 2, 3]);
    pass(&mut all, 5);
    all[first].disk_stands = false;
    all[first].settle();
    let (append, replicate) = (measures[first].append_us.read(), measures[first].replicate_us.read());
    assert_eq!((append.count, append.max), (1, 8_000), "its own disk took 8 ms");
    assert_eq!((replicate.count, replicate.max), (1, 3_000), "the others took 3 ms");
    let bytes = measures[first].batch_bytes.read();
    assert_eq!((bytes.count, bytes.max), (1, item.len() as u64));
    let others: Vec<usize> = (0..3).filter(|n| *n != first).collect();
    assert!(others.iter().all(|n| measures[*n].append_us.read().count == 0), "who follows stamps nothing");

    // What a leader that is cut off has stamped is never committed: no time may be taken of what came in its place.
    let elect_without = |all: &mut Vec<One>, gone: usize| {
        let left: Vec<u64> = (1..=3).filter(|n| *n as usize != gone + 1).collect();
        elect(all, &left) as usize - 1
    };
    all[first].propose(2, item);
    all[first].settle();
    all[first].sent.clear();
    let second = elect_without(&mut all, first);
    assert_eq!(won(second), Some(ElectionReason::Silence));
    for _ in 0..20 {
        pass(&mut all, 50);
        all[second].core.tick();
        exchange(&mut all, &[1, 2, 3]);
    }
    assert!(!all[first].leads());
    assert_eq!(measures[first].replicate_us.read().count, 1);

    all[second].core.transfer_leader(first as u64 + 1);
    exchange(&mut all, &[1, 2, 3]);
    assert!(all[first].leads());
    assert_eq!(won(first), Some(ElectionReason::HandedOver));
    assert_eq!(measures[first].stood(ElectionReason::HandedOver), 1);

    others.iter().for_each(|n| all[*n].core.suspect(first as u64 + 1, 0));
    let third = elect_without(&mut all, first);
    assert_eq!(won(third), Some(ElectionReason::ProcessEnded));
}
