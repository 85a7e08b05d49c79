//! What must hold of the group at every step, whatever the layer above does (raft-log.md section 7, a–h).
//!
//! Nothing here trusts the code under test: what is durable is read from the simulated disk, as a power cut that keeps
//! nothing unsynced would leave it.

use std::collections::BTreeMap;
use std::path::Path;

use raft::eraftpb::MessageType;
use uuid::Uuid;

use super::disk::SimFs;
use super::host::Violation;
use super::node::DIR;
use crate::group::{FETCH_CARRIER, Flush, REPORT_CARRIER, WriteTask};
use crate::log::meta::{FILE_NAME, FirstFrame, Meta, SLOT_LEN};
use crate::log::segment::segment_path;
use crate::log::{Doubts, FrameBytes, HEADER_LEN, Header, Layout, LogView};
use crate::seam::Membership;
use crate::transport::codec::PeerMessage;
use crate::types::{Frame, FramePos, RaftId};

type Check = Result<(), Violation>;

fn fail<T>(checker: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { checker, detail })
}

/// A frame that a node's raft loop has handed to its disk.
#[derive(Clone)]
struct Written {
    at: FramePos,
    bytes: Vec<u8>,
}

/// What one node has promised, and what it has handed to its disk.
#[derive(Default)]
struct NodeRecord {
    /// By index, from 1 on.
    log: Vec<Written>,
    /// The log before each cut that may not have reached the disk: number of the job, and the frames.
    before_cuts: Vec<(u64, Vec<FramePos>)>,
    /// Everything up to this index has been seen on the disk. More than was promised, when jobs that wait cut the same
    /// frames off and write them again.
    verified: u64,
    /// Everything up to this index was promised to a leader.
    promised: u64,
    /// Frames that were ever promised to a leader, whatever a power cut did to them since.
    ever_promised: BTreeMap<u64, FramePos>,
    /// Commit index up to which its frames stand in the table of committed ones.
    noted: u64,
    /// Highest term in a message that has left.
    term: u64,
    /// Term and vote that have been seen on the disk, in a slot of the meta file.
    durable_vote: (u64, RaftId),
    /// Votes given to others or to itself, by term.
    votes: BTreeMap<u64, RaftId>,
    commit: u64,
    /// A configuration that it has applied has named it.
    member: bool,
}

/// Everything that is known of the run.
pub(super) struct Checks {
    layout: Layout,
    flush: Flush,
    nodes: BTreeMap<RaftId, NodeRecord>,
    leaders: BTreeMap<u64, RaftId>,
    /// Committed frames by index, as far as anybody has acknowledged or applied them.
    committed: BTreeMap<u64, FramePos>,
    digests: BTreeMap<u64, u64>,
    /// Members that the group was born with.
    birth: u64,
    /// Who ever had a number.
    replicas: BTreeMap<RaftId, Uuid>,
}

impl Checks {
    pub(super) fn new(layout: Layout, birth: u64, flush: Flush) -> Checks {
        Checks {
            layout,
            flush,
            nodes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            digests: BTreeMap::new(),
            birth,
            replicas: BTreeMap::new(),
        }
    }

    /// A node has applied a change of the membership.
    pub(super) fn membership(&mut self, node: RaftId, membership: &Membership) -> Check {
        self.node(node).member |= membership.contains(node);
        for (id, info) in &membership.members {
            let first = self.replicas.entry(*id).or_insert(info.replica);
            if *first != info.replica {
                let detail = format!("number {id} was {first}, node {node} has it as {}", info.replica);
                return fail("a-number-once", detail);
            }
        }
        let known = membership.ids().into_iter().eq(membership.members.keys().copied());
        if !known || membership.members.values().any(|info| info.peer.is_empty()) {
            return fail("members-are-known", format!("node {node} has applied {membership:?}"));
        }
        let two = membership.voters.len() == 2 && !membership.is_joint();
        if two && self.birth > 2 {
            return fail("never-two-voters", format!("node {node} has applied {membership:?}"));
        }
        Ok(())
    }

    fn node(&mut self, node: RaftId) -> &mut NodeRecord {
        self.nodes.entry(node).or_default()
    }

    /// Number of terms that had a leader.
    pub(super) fn leader_count(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// At most one leader per term.
    pub(super) fn leads(&mut self, node: RaftId, term: u64) -> Check {
        match self.leaders.insert(term, node) {
            Some(other) if other != node => {
                fail("one-leader-per-term", format!("nodes {other} and {node} both lead in term {term}"))
            }
            _ => Ok(()),
        }
    }

    /// A job goes to the node's disk.
    pub(super) fn handed_to_disk(&mut self, node: RaftId, task: &WriteTask) -> Check {
        if let Some(staged) = &task.job.install {
            self.installs(node, task.number, staged.manifest.first.index - 1, &staged.manifest.tail)?;
        }
        let record = self.node(node);
        if let Some(keep) = &task.job.truncate_to {
            record.before_cuts.push((task.number, record.log.iter().map(|written| written.at).collect()));
            record.log.truncate(keep.index as usize);
            record.verified = record.verified.min(keep.index);
            record.promised = record.promised.min(keep.index);
        }
        for frame in &task.job.frames {
            if frame.at.index != record.log.len() as u64 + 1 {
                let detail = format!("node {node} writes {:?} behind entry {}", frame.at, record.log.len());
                return fail("log-contiguous", detail);
            }
            record.log.push(written(frame));
        }
        for frame in &task.job.rewrite {
            let there = record.log.get(frame.at.index as usize - 1);
            let same = there.is_some_and(|there| {
                // Of what it has given up only the place is known.
                there.at == frame.at && (there.bytes.is_empty() || there.bytes == written(frame).bytes)
            });
            if !same {
                let detail = format!("node {node} mends its log with other bytes than were there, at {:?}", frame.at);
                return fail("mended-as-it-was", detail);
            }
        }
        if task.tail.index != record.log.len() as u64 {
            return fail("log-contiguous", format!("node {node} says {:?} is its tail", task.tail));
        }
        let committed: Vec<_> = self
            .committed
            .range(task.job.truncate_to.map_or(u64::MAX, |keep| keep.index + 1)..)
            .map(|(_, at)| *at)
            .collect();
        let record = self.node(node);
        // A cut below the commit index is only lawful when this node never had the committed frames.
        if let Some(lost) = committed.iter().find(|at| {
            record.commit >= at.index && record.log.get(at.index as usize - 1).is_none_or(|there| there.at != **at)
        }) {
            return fail(
                "committed-never-cut",
                format!("node {node} cuts off {lost:?}, which it knew to be committed"),
            );
        }
        Ok(())
    }

    /// A node removes everything before `first`: only what is committed, and durable on its disk until now.
    pub(super) fn removes_before(&mut self, node: RaftId, first: &FirstFrame, disk: &SimFs) -> Check {
        let last = first.index - 1;
        let fits =
            self.committed.get(&last).is_some_and(|at| (at.term, at.chain) == (first.prev_term, first.prev_chain));
        if !fits {
            let detail = format!("node {node} begins its log at {first:?}, behind what is not known to be committed");
            return fail("committed-before-removal", detail);
        }
        if !self.durable_up_to(node, last, disk) {
            return fail("durable-before-removal", format!("node {node} begins its log at {first:?}"));
        }
        Ok(())
    }

    /// A snapshot takes the place of a node's log: it must be the log of the others, up to a committed frame.
    fn installs(&mut self, node: RaftId, number: u64, removed: u64, tail: &FramePos) -> Check {
        self.committed(node, *tail)?;
        let index = tail.index as usize;
        let same = |record: &&NodeRecord| {
            record.log.get(index - 1).is_some_and(|written| written.at == *tail)
                && record.log[removed as usize..index].iter().all(|written| !written.bytes.is_empty())
        };
        let Some(log) = self.nodes.values().find(same).map(|record| record.log[..index].to_vec()) else {
            return fail("snapshot-is-the-log", format!("node {node} installs {tail:?}, which nobody has"));
        };
        if let Some((lost, _)) = self.committed.range(..=tail.index).find(|(n, at)| log[**n as usize - 1].at != **at) {
            return fail("committed-never-cut", format!("node {node} installs another entry {lost}"));
        }
        let record = self.node(node);
        // The job may have waited: what the snapshot commits is committed by now.
        if tail.index < record.commit {
            let detail = format!("node {node} installs {tail:?}, it has committed {}", record.commit);
            return fail("snapshot-goes-forward", detail);
        }
        let common = record.log.iter().zip(&log).take_while(|(old, new)| old.at == new.at).count();
        record.before_cuts.push((number, record.log.iter().map(|written| written.at).collect()));
        record.log = log;
        record.verified = removed;
        // What it promised beyond that was not committed, and is not the log any more.
        record.promised = record.promised.min(common as u64);
        Ok(())
    }

    /// Everything up to this job is durable.
    pub(super) fn synced(&mut self, node: RaftId, number: u64) {
        self.node(node).before_cuts.retain(|(cut, _)| *cut > number);
    }

    /// Index up to which the disk of a node has been compared with what it was given: what goes bad there is the disk's fault.
    pub(super) fn verified(&self, node: RaftId) -> u64 {
        self.nodes.get(&node).map_or(0, |record| record.verified)
    }

    /// Page caches of a majority were lost at once, as asynchronous groups are warned of: forgets what was promised. Terms and
    /// votes are remembered: they are synced always.
    pub(super) fn forgive(&mut self) {
        self.committed.clear();
        self.digests.clear();
        for record in self.nodes.values_mut() {
            (record.promised, record.noted) = (0, 0);
            record.ever_promised.clear();
        }
    }

    /// A committed frame reaches a state machine, or stands behind an acknowledgement.
    pub(super) fn committed(&mut self, node: RaftId, at: FramePos) -> Check {
        match self.committed.get(&at.index) {
            Some(known) if *known != at => {
                fail("committed-equal", format!("node {node} has {at:?} committed, others have {known:?}"))
            }
            Some(_) => Ok(()),
            None => {
                self.committed.insert(at.index, at);
                Ok(())
            }
        }
    }

    /// The commit index lies inside the log and never falls while a node lives.
    pub(super) fn commit_index(&mut self, node: RaftId, commit: u64, last: u64) -> Check {
        let record = self.node(node);
        if commit > last {
            return fail("commit-within-log", format!("node {node} has committed {commit} of {last} entries"));
        }
        if commit < record.commit {
            return fail("commit-never-falls", format!("node {node} went from {} to {commit}", record.commit));
        }
        record.commit = commit;
        Ok(())
    }

    /// What this node knows to be committed, after its answers were judged: an answer given later, perhaps under another
    /// membership, needs no majority again.
    pub(super) fn has_committed(&mut self, node: RaftId, commit: u64) -> Check {
        let record = self.node(node);
        let new = record.noted.min(record.log.len() as u64)..commit.min(record.log.len() as u64);
        record.noted = record.noted.max(commit);
        let frames: Vec<FramePos> = new.map(|index| record.log[index as usize].at).collect();
        frames.into_iter().try_for_each(|at| self.committed(node, at))
    }

    /// A message leaves: whatever it promises must be on the disk.
    pub(super) fn leaves(&mut self, node: RaftId, message: &PeerMessage, disk: &SimFs) -> Check {
        let raft = &message.raft;
        let kind = raft.get_msg_type();
        if matches!(
            kind,
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse | REPORT_CARRIER | FETCH_CARRIER
        ) {
            return Ok(());
        }
        let votes = kind == MessageType::MsgRequestVoteResponse && !raft.reject;
        if votes && node > self.birth && !self.node(node).member {
            return fail("only-members-vote", format!("node {node} votes and no configuration names it"));
        }
        let vote = match kind {
            MessageType::MsgRequestVote => Some(node),
            MessageType::MsgRequestVoteResponse if !raft.reject => Some(raft.to),
            _ => None,
        };
        let record = self.node(node);
        if raft.term < record.term {
            return fail(
                "term-never-falls",
                format!("node {node} speaks in term {}, was in {}", raft.term, record.term),
            );
        }
        record.term = raft.term;
        if let Some(candidate) = vote
            && let Some(other) = record.votes.insert(raft.term, candidate)
            && other != candidate
        {
            let detail = format!("node {node} votes for {candidate} and for {other} in term {}", raft.term);
            return fail("one-vote-per-term", detail);
        }
        // A newer durable term stands for every promise of older ones.
        let kept = |durable: (u64, RaftId)| {
            durable.0 > raft.term || (durable.0 == raft.term && vote.is_none_or(|vote| durable.1 == vote))
        };
        if !kept(record.durable_vote) {
            record.durable_vote = durable_vote(disk);
            if !kept(record.durable_vote) {
                let detail = format!(
                    "{kind:?} of node {node} in term {} (vote {vote:?}) leaves while its disk has term and vote {:?}",
                    raft.term, record.durable_vote
                );
                return fail("vote-durable-before-answer", detail);
            }
        }
        if kind == MessageType::MsgAppendResponse && !raft.reject {
            if !self.durable_up_to(node, raft.index, disk) {
                let detail = format!("node {node} answers that entry {} is durable, and it is not", raft.index);
                return fail("append-durable-before-answer", detail);
            }
            let record = self.node(node);
            for index in record.promised..raft.index {
                let at = record.log[index as usize].at;
                record.ever_promised.insert(at.index, at);
            }
            record.promised = record.promised.max(raft.index);
        }
        Ok(())
    }

    /// Whether the disk of `node` holds every frame up to `index` as the node handed it over.
    fn durable_up_to(&mut self, node: RaftId, index: u64, disk: &SimFs) -> bool {
        let Checks { layout, flush, .. } = *self;
        let record = self.node(node);
        while record.verified < index {
            let Some(written) = record.log.get(record.verified as usize) else {
                return false;
            };
            let base = layout.base_of(written.at.pos);
            let path = segment_path(Path::new(DIR), base);
            let (offset, len) = (written.at.pos.0 - base.0, written.bytes.len());
            let on_disk = match flush {
                Flush::Sync => disk.durable(&path, offset, len),
                Flush::Async => disk.cached(&path, offset, len),
            };
            if on_disk.as_ref() != Some(&written.bytes) {
                return false;
            }
            record.verified += 1;
        }
        true
    }

    /// An acknowledgement: a majority of the voters must have the frame on their disks, now.
    pub(super) fn acknowledged<'a>(
        &mut self,
        leader: RaftId,
        index: u64,
        members: [&Membership; 2],
        disks: impl Fn(RaftId) -> Option<&'a SimFs>,
    ) -> Check {
        let Some(at) = (index > 0).then(|| self.node(leader).log.get(index as usize - 1)).flatten().map(|it| it.at)
        else {
            return fail("ack-in-log", format!("node {leader} acknowledges entry {index}, which its log has not"));
        };
        let known = self.committed.contains_key(&index);
        self.committed(leader, at)?;
        if known {
            // Told again, perhaps under a later membership whose new members are still catching up.
            return Ok(());
        }
        let mut holds = |voter: RaftId| {
            // An old word counts until the leader hears of the restart; whoever gave it does not vote until it has all of that.
            if self.flush == Flush::Async && self.node(voter).ever_promised.get(&index) == Some(&at) {
                return true;
            }
            let same = self.node(voter).log.get(index as usize - 1).is_some_and(|written| written.at == at);
            same && disks(voter).is_some_and(|disk| self.durable_up_to(voter, index, disk))
        };
        let mut majority = |voters: &[RaftId]| {
            voters.is_empty() || voters.iter().filter(|voter| holds(**voter)).count() * 2 > voters.len()
        };
        if members.iter().any(|members| majority(&members.voters) && majority(&members.voters_outgoing)) {
            return Ok(());
        }
        let detail = format!("node {leader} acknowledges {at:?}, which no majority of {members:?} has on disk");
        fail("ack-durable-on-majority", detail)
    }

    /// A node has started: what it promised before must be there, or it must say that it may not be.
    pub(super) fn started(
        &mut self,
        node: RaftId,
        hard_state: (u64, RaftId),
        commit: u64,
        doubts: Doubts,
        view: &LogView,
    ) -> Check {
        let record = self.nodes.entry(node).or_default();
        let (term, vote) = hard_state;
        if term < record.term {
            return fail("term-never-falls", format!("node {node} starts in term {term}, it was in {}", record.term));
        }
        if let Some(given) = record.votes.get(&term)
            && *given != vote
        {
            return fail("one-vote-per-term", format!("node {node} voted for {given} in term {term}, now says {vote}"));
        }
        record.durable_vote = (0, 0);
        record.commit = commit;
        let promised = record.promised;
        let before = std::mem::take(&mut record.log);
        // What was removed from its front counts as it was then.
        let removed = (view.first().0 - 1) as usize;
        if removed > before.len() {
            return fail(
                "log-as-written",
                format!("node {node} starts at {:?}, with {} entries", view.first(), before.len()),
            );
        }
        record.verified = removed as u64;
        record.log = before.iter().take(removed).map(|it| Written { at: it.at, bytes: Vec::new() }).collect();
        for frame in view.iter(view.first().0) {
            match frame {
                Ok(frame) => record.log.push(read_back(&frame)),
                Err(error) => return fail("log-readable", format!("node {node}: {error}")),
            }
        }
        let before_cuts = std::mem::take(&mut record.before_cuts);
        let lives_on = |frames: &mut dyn Iterator<Item = FramePos>| {
            let mut now = record.log.iter();
            frames.zip(&mut now).all(|(then, now)| then == now.at) && now.next().is_none()
        };
        let known = lives_on(&mut before.iter().map(|written| written.at))
            || before_cuts.iter().any(|(_, frames)| lives_on(&mut frames.iter().copied()));
        if !known {
            let tail = record.log.last().map(|written| written.at);
            return fail("log-as-written", format!("node {node} starts with a log that it never had, up to {tail:?}"));
        }
        let same = (0..promised as usize).all(|n| record.log.get(n).is_some_and(|now| now.at == before[n].at));
        if !same && !doubts.is_none() {
            record.promised = record.promised.min(record.log.len() as u64);
        } else if !same {
            let detail = format!("node {node} had entries up to {promised} on its disk, now its log has others");
            return fail("durable-never-lost", detail);
        }
        Ok(())
    }

    /// Committed frames that a node ought to have, compared with its log. Called at the end, for all members.
    pub(super) fn holds_committed(&mut self, node: RaftId) -> Check {
        let Checks { nodes, committed, .. } = self;
        let log = &nodes.entry(node).or_default().log;
        for (index, at) in committed.iter() {
            match log.get(*index as usize - 1) {
                Some(written) if written.at == *at => {}
                other => {
                    let other = other.map(|written| written.at);
                    return fail(
                        "committed-everywhere",
                        format!("node {node} has {other:?} where {at:?} is committed"),
                    );
                }
            }
        }
        Ok(())
    }

    /// State machines at one index are equal.
    pub(super) fn digest(&mut self, node: RaftId, index: u64, digest: u64) -> Check {
        match self.digests.insert(index, digest) {
            Some(other) if other != digest => {
                fail("state-equal", format!("node {node} has digest {digest:x} at entry {index}, others {other:x}"))
            }
            _ => Ok(()),
        }
    }
}

fn frame_bytes(header: &[u8; HEADER_LEN], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(payload);
    bytes
}

fn written(frame: &FrameBytes) -> Written {
    Written { at: frame.at, bytes: frame_bytes(&frame.header, &frame.payload) }
}

fn read_back(frame: &Frame) -> Written {
    Written { at: frame.at, bytes: frame_bytes(&Header::of_frame(frame).to_bytes(), &frame.payload) }
}

/// Term and vote of the newest slot on the disk.
fn durable_vote(disk: &SimFs) -> (u64, RaftId) {
    let path = Path::new(DIR).join(FILE_NAME);
    let slots = (0..2).filter_map(|slot| disk.durable(&path, slot * SLOT_LEN as u64, SLOT_LEN));
    let newest = slots.filter_map(|slot| Meta::decode(&slot)).max_by_key(|(seq, _)| *seq);
    newest.map_or((0, 0), |(_, meta)| (meta.term, meta.vote))
}
