//! Bits that flip below the commit index, on one node at a time, and their repair; and peers that send something else than what
//! was asked for.

use std::path::{Path, PathBuf};

use rand::Rng;

use super::disk::SimFs;
use super::host::{Host, Violation};
use super::node::DIR;
use super::plan::MS;
use super::world::{Event, World};
use crate::group::FETCH_CARRIER;
use crate::log::frame::payload_crc as crc;
use crate::log::scrub::Run;
use crate::log::segment::segment_path;
use crate::log::{Header, Layout};
use crate::transport::codec::PeerMessage;
use crate::types::{LogPos, RaftId};

/// A byte that has gone bad.
#[derive(Debug)]
pub(super) struct Rot {
    pub(super) node: RaftId,
    run: Run,
    path: PathBuf,
    offset: u64,
    before: u8,
    bad: u8,
}

impl Rot {
    /// As if it had never happened.
    pub(super) fn undo(&self, disk: &SimFs) {
        // Its segment may have been given up meanwhile.
        disk.heal_byte(&self.path, self.offset, self.bad, self.before);
    }

    /// Whether a reader meets it.
    pub(super) fn shows(&self, disk: &SimFs) -> bool {
        disk.cached(&self.path, self.offset, 1).is_some_and(|byte| byte[0] == self.bad)
    }

    /// Has readers meet it, or not.
    pub(super) fn show(&self, disk: &SimFs, shows: bool) {
        disk.set_cached(&self.path, self.offset, if shows { self.bad } else { self.before });
    }
}

impl<H: Host> World<H> {
    /// A bit flips on a running node whose log was seen to be on its disk, if no other one has.
    fn rot(&mut self, id: RaftId) {
        if !self.may_lose(id) {
            // What is damaged does not lead before it is mended, by a leader.
            return;
        }
        let verified = self.checks.verified(id);
        let World { nodes, rot_rng: rng, plan, rot, .. } = self;
        let node = &nodes[id as usize - 1];
        let Some(live) = node.live.as_ref().filter(|_| rot.is_none() && !node.disk.is_off()) else { return };
        let until = live.core.applied_index().min(verified);
        let end = live.view.published().0;
        let Some(run) = (end > 0).then(|| live.view.run_from(LogPos(rng.random_range(0..end)), until)).flatten() else {
            return;
        };
        let pos = run.begin + rng.random_range(0..run.end.end().0 - run.begin.0);
        let layout = Layout { segment_size: plan.segment_size };
        let base = layout.base_of(pos);
        let (path, offset) = (segment_path(Path::new(DIR), base), pos.0 - base.0);
        let before = node.disk.cached(&path, offset, 1).expect("the log lies there")[0];
        let bit = rng.random_range(0..8);
        node.disk.flip_bit(&path, offset, bit);
        *rot = Some(Rot { node: id, run, path, offset, before, bad: before ^ (1 << bit) });
        self.trace("rot", id, pos.0);
        self.count("rot");
    }

    /// Frames that a peer sends for a repair are sometimes not the ones that were asked for.
    pub(super) fn spoil(&mut self, message: &mut PeerMessage) {
        let rng = &mut self.rot_rng;
        if !self.faults_on || message.raft.get_msg_type() != FETCH_CARRIER || message.frames.is_empty() {
            return;
        }
        let at = rng.random_range(0..message.frames.len());
        match rng.random_range(0..8) {
            // Checksums of its own, and another content.
            0 => {
                let frame = &mut message.frames[at];
                let Ok(header) = Header::decode(&frame.header) else { return };
                let mut payload = frame.payload.to_vec();
                if let Some(byte) = payload.first_mut() {
                    *byte ^= 1;
                }
                let payload_crc = crc(&payload);
                frame.header = Header { payload_crc, ..header }.to_bytes();
                frame.payload = payload.into();
            }
            1 => {
                message.frames.remove(at);
            }
            _ => return,
        }
        self.count("wrong answer to a repair");
    }

    pub(super) fn plan_scrub(&mut self, id: RaftId) {
        if !self.plan.rot {
            return;
        }
        let run = self.node(id).run;
        let after = self.rot_rng.random_range(5..100) * MS;
        self.schedule(after, Event::Scrub { node: id, run });
    }

    /// One step of the thread that verifies the log.
    pub(super) fn scrub(&mut self, id: RaftId, run: u64) -> Result<(), Violation> {
        debug_assert_eq!(run, self.node(id).run);
        self.plan_scrub(id);
        if self.faults_on && self.rot_rng.random_ratio(1, 30) {
            self.rot(id);
        }
        if self.node(id).disk.is_off() {
            // Its planned power-off has come: nothing can be read, and it dies with the next call.
            return Ok(());
        }
        let live = self.live(id);
        match live.view.run_from(live.scrubbed, live.core.commit_index()) {
            Some(run) => {
                live.scrubbed = run.end.end();
                if !live.view.is_whole(&run).unwrap_or(false) {
                    live.core.damaged(run);
                    self.count("damage found");
                }
            }
            None => live.scrubbed = LogPos(0),
        }
        let World { nodes, rot, .. } = self;
        // What any member has given up already need not be mended, and nobody may have it any more.
        let first = nodes.iter().filter_map(|node| node.live.as_ref()).map(|live| live.view.first().0).max();
        if let Some(void) = rot.take_if(|rot| Some(rot.run.end.index) < first) {
            void.undo(&nodes[void.node as usize - 1].disk);
        }
        let live = nodes[id as usize - 1].live.as_ref().expect("it runs");
        let disk = &nodes[id as usize - 1].disk;
        let gone = |run: &Run| run.end.index < live.view.first().0;
        // Not before the good bytes are synced: a power cut would bring the bad one back.
        let on_disk = |rot: &Rot| disk.durable(&rot.path, rot.offset, 1).is_some_and(|byte| byte[0] == rot.before);
        let mended = |rot: &Rot| gone(&rot.run) || (on_disk(rot) && live.view.is_whole(&rot.run).unwrap_or(false));
        if rot.take_if(|rot| rot.node == id && mended(rot)).is_some() {
            self.count("rot mended");
        }
        Ok(())
    }
}
