//! What the peers that send delayed messages note, and what must hold of it: nothing comes before its time, nothing is lost, and
//! what was sent once is in its topic once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::history::{Event, History};
use crate::load;
use crate::peer::Peer;
use crate::stage::Stage;

/// An acknowledged send, in ms of the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Before the call.
    pub before: u64,
    /// Behind it.
    pub after: u64,
    /// How long the message is to wait.
    pub delay: u64,
}

/// All notes of such a peer.
#[derive(Debug, Default)]
pub struct Notes {
    /// By the message's id.
    pub sent: BTreeMap<String, Sent>,
    /// Messages with a send whose outcome nobody knows: they may be there more than once.
    pub failed: BTreeSet<String>,
    /// Deliveries by id: failed tries before, and when.
    pub got: BTreeMap<String, Vec<(u32, u64)>>,
    /// The same from the dead letters.
    pub dead: BTreeMap<String, Vec<(u32, u64)>>,
    /// Messages that were taken back.
    pub recalled: BTreeSet<String>,
}

impl Notes {
    /// Reads the notes out of a history.
    ///
    /// # Errors
    /// When a note is none.
    pub fn of(history: &History) -> Result<Notes> {
        let mut notes = Notes::default();
        for event in &history.events {
            let Event::Mark { what, .. } = event else { continue };
            let words: Vec<&str> = what.split(' ').collect();
            let number = |n: usize| -> Result<u64> { Ok(words.get(n).context("a note is too short")?.parse()?) };
            match words[..] {
                ["sent", id, ..] => {
                    let sent = Sent { before: number(2)?, after: number(3)?, delay: number(4)? };
                    notes.sent.insert(id.to_owned(), sent);
                }
                ["failed", id, ..] => drop(notes.failed.insert(id.to_owned())),
                ["recalled", id, ..] => drop(notes.recalled.insert(id.to_owned())),
                ["got", id, ..] => notes.got.entry(id.to_owned()).or_default().push((number(2)? as u32, number(3)?)),
                ["dead", id, ..] => notes.dead.entry(id.to_owned()).or_default().push((number(2)? as u32, number(3)?)),
                ["started" | "done" | "stopped"] => {}
                _ => bail!("an unknown note: {what}"),
            }
        }
        Ok(notes)
    }

    /// Whether everything that was sent was handed over, but for what was taken back.
    pub fn is_complete(&self) -> bool {
        self.sent.keys().all(|id| self.got.contains_key(id) || self.recalled.contains(id))
    }

    /// Checks that nothing came before its time, and that what was taken back did not come. Returns the greatest time in ms by
    /// which one came late.
    ///
    /// # Errors
    /// When that is not so.
    pub fn check_times(&self) -> Result<u64> {
        let mut latest = 0;
        for (id, sent) in &self.sent {
            let got = self.got.get(id);
            ensure!(!(self.recalled.contains(id) && got.is_some()), "{id} was recalled, and came: {got:?}");
            let Some(first) = got.and_then(|got| got.iter().map(|(_, now)| *now).min()) else { continue };
            let due = sent.before + sent.delay;
            ensure!(first >= due, "{id} came {} ms before its time: {sent:?}", due - first);
            latest = latest.max(first.saturating_sub(sent.after + sent.delay));
        }
        Ok(latest)
    }
}

/// Waits until a peer was handed all that it sent.
///
/// # Errors
/// When that takes longer than `patience`.
pub fn await_complete(peer: &mut Peer, patience: Duration) -> Result<()> {
    peer.await_mark("done", patience)?;
    peer.await_history("every delayed message", patience, |history| {
        Notes::of(history).is_ok_and(|notes| notes.is_complete())
    })
}

/// Checks against the topic's queues that each message is there once. Returns how many there are.
///
/// # Errors
/// When one is missing, or there twice although its send did not fail.
pub fn check_stored(stage: &Stage, topic: &str, files: &[PathBuf]) -> Result<usize> {
    let history = load::history(&stage.cluster, topic, files)?;
    let notes = Notes::of(&history)?;
    let mut stored = BTreeMap::<&str, usize>::new();
    for event in &history.events {
        if let Event::Final { id, .. } = event {
            *stored.entry(id).or_default() += 1;
        }
    }
    for id in notes.sent.keys().filter(|id| !notes.recalled.contains(*id)) {
        let count = stored.get(id.as_str()).copied().unwrap_or(0);
        ensure!(count >= 1, "{id} is lost");
        ensure!(count == 1 || notes.failed.contains(id), "{id} is in its topic {count} times");
    }
    for id in stored.keys() {
        ensure!(!notes.recalled.contains(*id), "{id} was recalled, and is in its topic");
    }
    Ok(stored.values().sum())
}
