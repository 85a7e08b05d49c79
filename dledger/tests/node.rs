//! Real threads, sockets and files in one process: would a group of nodes elect, replicate, survive the stop of a
//! leader, and leave byte-identical logs? (Crashes and power cuts are the simulator's; real processes are in `tests/`.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::fs::OsFs;
use ledgermq_dledger::group::{GroupTuning, MemberChange};
use ledgermq_dledger::log::meta::{GroupConstants, Identity, Member};
use ledgermq_dledger::log::segment::segment_path;
use ledgermq_dledger::{
    AppliedState, ApplyError, Completions, Frame, FrameKind, FramePos, GroupHandle, GroupId, GroupSetup, LogPos,
    MemberAddress, MemberInfo, Membership, Node, NodeConfig, Outcome, Proposal, Scrub, Stamper, Standing, StateMachine,
    Verdict, inspect, replica, salvage,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Payloads are stored as they come; the answer is their position.
struct Plain;

impl Stamper for Plain {
    type Item = (Bytes, u64);
    type Ticket = oneshot::Sender<Outcome<u64>>;
    type Answer = u64;

    fn kind(&self, _item: &Self::Item) -> FrameKind {
        FrameKind::Messages
    }
    fn admit(&mut self, item: &mut Self::Item, _index: u64, _now_ms: u64) -> Verdict<u64> {
        Verdict::Take { len: item.0.len(), records: 1 }
    }
    fn precede(&mut self, _item: &mut Self::Item, _index: u64, _now_ms: u64) -> Bytes {
        unreachable!("nothing asks for it")
    }
    fn write(&mut self, item: &mut Self::Item, at: LogPos, out: &mut BytesMut) {
        item.1 = at.0;
        out.extend_from_slice(&item.0);
    }
    fn answer(&mut self, item: Self::Item, _index: u64) -> u64 {
        item.1
    }
    fn begin(&mut self, _term: u64) -> Option<Bytes> {
        None
    }
    fn end(&mut self) {}
}

#[derive(Default)]
struct Kept {
    applied: FramePos,
    payloads: Vec<Bytes>,
}

/// Keeps everything in memory: each start replays the whole log through Raft.
struct Memory(Arc<Mutex<Kept>>);

impl StateMachine for Memory {
    fn applied(&self) -> AppliedState {
        AppliedState { at: self.0.lock().applied, membership: None }
    }
    fn replay_from(&self) -> u64 {
        self.0.lock().applied.index
    }
    fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        self.0.lock().payloads.push(frame.payload.clone());
        Ok(())
    }
    fn commit_round(&mut self, applied: FramePos, _membership: Option<&Membership>) -> Result<(), ApplyError> {
        self.0.lock().applied = applied;
        Ok(())
    }
    fn flush(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }
    fn flush_due(&self) -> bool {
        false
    }
    fn digest(&self) -> Result<u64, ApplyError> {
        Ok(self.0.lock().payloads.len() as u64)
    }
}

struct Answers;

impl Completions<Plain> for Answers {
    fn complete(&mut self, done: &mut Vec<(oneshot::Sender<Outcome<u64>>, Outcome<u64>)>) {
        for (ticket, outcome) in done.drain(..) {
            let _ = ticket.send(outcome);
        }
    }
}

/// All of a log within a moment.
const SCRUB: Scrub = Scrub { bytes_per_second: 1 << 30, pause: Duration::from_millis(20) };

struct Member3 {
    dir: PathBuf,
    listen: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    running: Option<(Node<Memory>, GroupHandle<Plain>)>,
}

struct Cluster {
    cluster_id: Uuid,
    group: GroupId,
    nodes: Vec<Member3>,
    born: Vec<Member>,
    _dir: tempfile::TempDir,
}

/// Loopback addresses that nobody else takes while a node is down: of a network of this process's and this call's own,
/// so that neither another test nor the source port of some connection gets in between.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, pid_high, pid_low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, pid_high | 0x80, pid_low, CALLS.fetch_add(1, Ordering::Relaxed));
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind((host, 0)).unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

impl Cluster {
    fn new(size: u64) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let (cluster_id, group) = (Uuid::new_v4(), GroupId(Uuid::new_v4()));
        let members: Vec<_> = (1..=size).map(|raft_id| Member { raft_id, replica: Uuid::new_v4() }).collect();
        let fs: Arc<dyn ledgermq_dledger::fs::Fs> = Arc::new(OsFs);
        let addresses = free_addresses(size as usize);
        let nodes = members.iter().zip(addresses).map(|(member, listen)| {
            let dir = dir.path().join(member.raft_id.to_string());
            let identity = Identity { cluster_id, group, replica: member.replica, raft_id: member.raft_id };
            let constants = GroupConstants { segment_size: 1 << 20, format: 1 };
            std::fs::create_dir_all(&dir).unwrap();
            replica::create(&fs, &dir, identity, constants, members.clone()).unwrap();
            Member3 { dir, listen, kept: Arc::default(), running: None }
        });
        let nodes = nodes.collect();
        let mut cluster = Cluster { cluster_id, group, nodes, born: members.clone(), _dir: dir };
        (0..size as usize).for_each(|n| cluster.start(n));
        cluster
    }

    fn start(&mut self, n: usize) {
        let members = self
            .nodes
            .iter()
            .enumerate()
            // A member of the birth has the config of the birth.
            .take(if n < self.born.len() { self.born.len() } else { usize::MAX })
            .map(|(n, node)| MemberAddress {
                raft_id: n as u64 + 1,
                peer: node.listen.to_string(),
                client: "127.0.0.1:1".to_owned(),
            });
        let members = members.collect();
        let node = &mut self.nodes[n];
        *node.kept.lock() = Kept::default();
        let kept = Arc::clone(&node.kept);
        let setup = GroupSetup {
            group: self.group,
            dir: node.dir.clone(),
            members,
            tuning: GroupTuning::default(),
            completions: Box::new(Answers),
            layer: Box::new(move |_, _| Ok((Plain, Memory(Arc::clone(&kept))))),
        };
        let config = NodeConfig {
            cluster_id: self.cluster_id,
            listen: node.listen,
            peer_tls: None,
            fs: Arc::new(OsFs),
            scrub: Some(SCRUB),
            boot_id: None,
        };
        let (running, mut handles) = Node::start(config, vec![setup]).unwrap();
        node.running = Some((running, handles.remove(0)));
    }

    /// Starts a replica that is no member yet; returns its place and who it is.
    fn join(&mut self) -> (usize, MemberInfo) {
        let n = self.nodes.len();
        let fs: Arc<dyn ledgermq_dledger::fs::Fs> = Arc::new(OsFs);
        let replica = Uuid::new_v4();
        let identity = Identity { cluster_id: self.cluster_id, group: self.group, replica, raft_id: n as u64 + 1 };
        let constants = GroupConstants { segment_size: 1 << 20, format: 1 };
        let dir = self._dir.path().join((n + 1).to_string());
        std::fs::create_dir_all(&dir).unwrap();
        replica::join(&fs, &dir, identity, constants, self.born.clone()).unwrap();
        let listen = free_addresses(1)[0];
        self.nodes.push(Member3 { dir, listen, kept: Arc::default(), running: None });
        self.start(n);
        (n, MemberInfo { replica, peer: listen.to_string(), client: "127.0.0.1:1".to_owned() })
    }

    /// Has the leader change the membership, once it may.
    fn change(&self, steps: &[MemberChange]) {
        self.await_that("the change", || {
            let leader = self.leader();
            let change = self.handle(leader).change_membership(steps.to_vec(), false);
            let index = block_on(change).ok()?;
            self.await_that("the change's end", || {
                let applied = self.handle(leader).applied_index() >= index;
                (applied && !self.handle(leader).membership().is_joint()).then_some(())
            });
            Some(())
        });
    }

    fn standing(&self, n: usize) -> Standing {
        block_on(self.handle(n).status()).unwrap().standing
    }

    fn stop(&mut self, n: usize) {
        self.nodes[n].running.take().unwrap().0.stop().unwrap();
    }

    fn handle(&self, n: usize) -> &GroupHandle<Plain> {
        &self.nodes[n].running.as_ref().unwrap().1
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].running.is_some())
    }

    /// Waits for a leader that serves.
    fn leader(&self) -> usize {
        self.await_that("a leader that serves", || self.running().find(|n| self.handle(*n).role().serves()))
    }

    fn await_that<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(Instant::now() < until, "{what} did not come");
            std::thread::yield_now();
        }
    }

    /// Sends until each payload is acknowledged, following the leader; returns position and payload.
    fn send_all(&self, payloads: impl Iterator<Item = Bytes>) -> Vec<(u64, Bytes)> {
        let mut acked = Vec::new();
        let mut waiting = VecDeque::new();
        let mut left: VecDeque<Bytes> = payloads.collect();
        while !left.is_empty() || !waiting.is_empty() {
            let leader = self.leader();
            while let Some(payload) = left.pop_front() {
                let (ticket, outcome) = oneshot::channel();
                let size_hint = payload.len();
                let proposal = Proposal { item: (payload.clone(), 0), ticket, size_hint };
                match self.handle(leader).propose(proposal) {
                    Ok(()) => waiting.push_back((payload, outcome)),
                    Err(_) => {
                        left.push_front(payload);
                        break;
                    }
                }
            }
            while let Some((payload, outcome)) = waiting.pop_front() {
                match outcome.blocking_recv() {
                    Ok(Outcome::Answered(at)) => acked.push((at, payload)),
                    _ => left.push_back(payload),
                }
            }
        }
        acked
    }

    fn await_equal(&self) -> u64 {
        let commit = self.handle(self.leader()).commit_index();
        self.await_that("apply on all", || {
            self.running().all(|n| self.handle(n).applied_index() >= commit).then_some(commit)
        })
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn payload(n: u64) -> Bytes {
    let mut bytes = vec![n as u8; 100 + (n % 900) as usize];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes.into()
}

fn segments(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 20)
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), std::fs::read(dir.join("log").join(name)).unwrap())).collect()
}

/// Acknowledged payloads are where the answer said, on all replicas, after two changes of leader.
#[test]
fn three_nodes_keep_what_they_acknowledge() {
    let mut cluster = Cluster::new(3);
    let mut acked = cluster.send_all((0..2_000).map(payload));
    let old = cluster.leader();
    cluster.stop(old);
    acked.extend(cluster.send_all((2_000..4_000).map(payload)));
    cluster.start(old);
    let second = cluster.leader();
    cluster.stop(second);
    acked.extend(cluster.send_all((4_000..5_000).map(payload)));
    cluster.start(second);
    cluster.await_equal();
    assert_eq!(acked.len(), 5_000);
    for n in 0..3 {
        for (at, payload) in &acked {
            let read = cluster.handle(n).reader().read(LogPos(*at), payload.len()).unwrap();
            assert_eq!(&read, payload, "node {n} at {at}");
        }
    }
    let records = cluster.nodes.iter().map(|node| node.kept.lock().payloads.len()).collect::<Vec<_>>();
    assert!(records.iter().all(|count| *count == records[0]), "replicas applied {records:?} frames");
    (0..3).for_each(|n| cluster.stop(n));
    let logs: Vec<_> = cluster.nodes.iter().map(|node| segments(&node.dir)).collect();
    for other in &logs[1..] {
        let common = logs[0].len().min(other.len());
        assert!(common >= 2, "the log should have rolled");
        assert!(logs[0][..common - 1] == other[..common - 1], "full segments differ");
    }
}

/// A new replica gets the log, then its vote in the place of another one, which is told so; and a member that was down meanwhile,
/// whose log knows nothing of it, elects with the new one alone.
#[test]
fn a_new_replica_takes_the_place_of_another() {
    let mut cluster = Cluster::new(3);
    cluster.send_all((0..1_000).map(payload));
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let (old, down) = (others[0], others[1]);
    cluster.stop(down);
    let (new, info) = cluster.join();
    assert_eq!(cluster.standing(new), Standing::Joining);
    let sends = |cluster: &Cluster, from| cluster.send_all((from..from + 500).map(payload));
    cluster.change(&[MemberChange::AddLearner(4, info)]);
    sends(&cluster, 1_000);
    cluster.await_that("the new one as a learner", || (cluster.standing(new) == Standing::Learner).then_some(()));
    cluster.change(&[MemberChange::Promote(4), MemberChange::Remove(old as u64 + 1)]);
    sends(&cluster, 2_000);
    cluster.await_that("word of the removal", || (cluster.standing(old) == Standing::Removed).then_some(()));
    // With its config of the birth, and a log that ends before all this.
    cluster.start(down);
    cluster.stop(leader);
    let two = sends(&cluster, 3_000);
    cluster.await_that("apply", || {
        let commit = cluster.handle(cluster.leader()).commit_index();
        [new, down].iter().all(|n| cluster.handle(*n).applied_index() >= commit).then_some(())
    });
    for n in [new, down] {
        for (at, payload) in &two {
            assert_eq!(&cluster.handle(n).reader().read(LogPos(*at), payload.len()).unwrap(), payload, "node {n}");
        }
    }
    assert!(!cluster.handle(old).role().serves());
    [old, down, new].into_iter().for_each(|n| cluster.stop(n));
}

/// A group of one is a valid shape: it leads by itself and restarts from its own log.
#[test]
fn a_group_of_one_restarts_from_its_log() {
    let mut cluster = Cluster::new(1);
    let acked = cluster.send_all((0..500).map(payload));
    cluster.stop(0);
    cluster.start(0);
    cluster.leader();
    cluster.await_equal();
    for (at, payload) in &acked {
        assert_eq!(&cluster.handle(0).reader().read(LogPos(*at), payload.len()).unwrap(), payload);
    }
}

/// A read barrier is reached on the leader and refused elsewhere.
#[test]
fn only_the_leader_gives_read_barriers() {
    let mut cluster = Cluster::new(3);
    cluster.send_all((0..10).map(payload));
    let leader = cluster.leader();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for n in 0..3 {
        let barrier = runtime.block_on(cluster.handle(n).read_barrier());
        assert_eq!(barrier.is_ok(), n == leader, "node {n}: {barrier:?}");
    }
    // Before their folders go: a node whose disk fails ends the process.
    (0..3).for_each(|n| cluster.stop(n));
}

/// A bit that flips in what was acknowledged would be served, or come back as a damaged log at the next start: it must be found,
/// and be mended from another member, on a leader and on a follower, in a full segment and in the one that is written, and
/// when it flipped while its node was stopped.
#[test]
fn flipped_bits_are_mended_from_another_member() {
    let mut cluster = Cluster::new(3);
    let payloads = |from: u32| (from..from + 110).map(|n| Bytes::from(n.to_le_bytes().repeat(10_000)));
    cluster.send_all(payloads(0));
    cluster.await_equal();
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let mut mended = [0; 3];
    for (n, segment, offset, stopped) in [
        (follower, 0, 300_000, false),
        (leader, 1, 500_001, false),
        (follower, 3, 70_123, false),
        (leader, 3, 90, false),
        (follower, 2, 17, true),
    ] {
        if stopped {
            cluster.stop(n);
            mended[n] = 0;
        }
        let path = segment_path(&cluster.nodes[n].dir, LogPos(segment << 20));
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
        file.sync_all().unwrap();
        if stopped {
            cluster.start(n);
        }
        mended[n] += 1;
        cluster.await_that("a mended log", || {
            let (damaged, done, _) = cluster.handle(n).scrub_counts();
            (damaged == 0 && done >= mended[n]).then_some(())
        });
        mended[n] = cluster.handle(n).scrub_counts().1;
    }
    cluster.send_all(payloads(1_000));
    cluster.await_equal();
    (0..3).for_each(|n| cluster.stop(n));
    let fs: Arc<dyn ledgermq_dledger::fs::Fs> = Arc::new(OsFs);
    let dirs: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.dir.clone()).collect();
    let compared = inspect::compare(&fs, &dirs).unwrap();
    assert!(compared.equal(), "{compared:?}");
    for dir in &dirs {
        inspect::verify(&fs, dir).unwrap();
    }
}

/// Two of three are lost for ever: the third must be able to go on with all that it has, alone, and whoever comes back must not
/// be taken for a member.
#[test]
fn a_survivor_goes_on_alone() {
    let mut cluster = Cluster::new(3);
    let mut acked = cluster.send_all((0..500).map(payload));
    cluster.await_equal();
    (0..3).for_each(|n| cluster.stop(n));
    let old = cluster.group;
    cluster.group = GroupId(Uuid::new_v4());
    let fs: Arc<dyn ledgermq_dledger::fs::Fs> = Arc::new(OsFs);
    let kept = Arc::new(Mutex::new(Kept::default()));
    let layer = |_: &_, _: &_| Ok((Plain, Memory(Arc::clone(&kept))));
    let done = salvage::unsafe_recover(&fs, &cluster.nodes[1].dir, cluster.group, layer).unwrap();
    assert_eq!(done.removed, [1, 3]);

    cluster.start(1);
    acked.extend(cluster.send_all((500..1_000).map(payload)));
    cluster.await_equal();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(cluster.handle(1).status()).unwrap();
    assert_eq!(status.membership.voters, [2]);
    let term = status.role.term;
    // One that was given up comes back, with the group as it was.
    let new = std::mem::replace(&mut cluster.group, old);
    cluster.start(0);
    cluster.group = new;
    acked.extend(cluster.send_all((1_000..1_500).map(payload)));
    assert_eq!(cluster.handle(1).role().term, term, "somebody else's term was heard");
    for (at, payload) in &acked {
        assert_eq!(&cluster.handle(1).reader().read(LogPos(*at), payload.len()).unwrap(), payload);
    }
    (0..2).for_each(|n| cluster.stop(n));
}
