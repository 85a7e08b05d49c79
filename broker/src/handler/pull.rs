//! PULL_MESSAGE and LITE_PULL_MESSAGE: messages of one queue, filtered by tag or by properties, straight out of the CommitLog.
//!
//! ```text
//! checks --> ConsumeQueue units from the asked offset (tag hash on the unit) --> slices of the log (SQL92 on their properties)
//!                                                                                   --> one vectored write
//!   nothing new: parked in consumer/long_poll until apply wakes it or its time runs out, then run once more; apply knows tags only,
//!   so a pull by SQL92 that was woken for nothing is parked again
//! ```
//! Served by every replica from what it has applied. Only a confirmed leader says that an offset lies beyond the end: a replica
//! that lags would make clients reset their offsets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledgermq_dledger::LogPos;
use ledgermq_dledger::log::view::{ViewError, WARM_WINDOW};
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::message::tags::TagFilter;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::{
    FLAG_COMMIT_OFFSET, FLAG_SUSPEND, PullMessage, PullMessageResponse, status,
};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::sync::Semaphore;

use super::reset_offset::{self, Met};
use super::{from_disk, header, pull_filter, queue_mend};
use crate::apply::{UNITS_PER_READ_MAX, Unit};
use crate::consumer::long_poll::QueueKey;
use crate::filter::Filter;
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::Topic;

/// Most messages of one answer, whatever was asked for. Stock clients ask for 32.
pub const MESSAGES_MAX: usize = 1_024;

/// Bytes of one answer, when the client names none: RocketMQ's own bound. One message may be larger.
pub const BYTES_DEFAULT: usize = 256 << 10;

/// Most bytes of one answer, whatever was asked for. One message may be larger.
pub const BYTES_MAX: usize = 1 << 20;

/// Most units that one pull looks at in search of a match.
const UNITS_SCANNED_MAX: usize = 4 * UNITS_PER_READ_MAX;

/// Units that are read at a time for a filter that looks at the messages: most pulls are full before.
const UNITS_PER_READ_SQL: usize = 256;

/// Most bytes that one pull looks at in the properties of messages in search of a match, each counted as often as the expression may
/// look at it: about a millisecond. One message may take more.
const SQL_WORK_MAX: usize = 4 << 20;

/// What every message counts for, however few properties it has: its unit, and two places in the log.
const SQL_WORK_OF_MESSAGE: usize = 512;

/// Reads of old messages at a time, in the whole process.
const COLD_READS_MAX: usize = 4;

pub(super) static COLD_READS: Semaphore = Semaphore::const_new(COLD_READS_MAX);

/// Longest time that a pull is held. Clients ask for 15 to 20 s and give up after 30.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// A pull that is on its way, or waits.
#[derive(Debug)]
pub struct ParkedPull {
    pull: PullMessage,
    filter: Arc<Filter>,
    responder: Responder,
    until: Instant,
}

/// Which time a pull is run, and so whether it may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has just arrived.
    First,
    /// It has waited, and may go on until then if it was woken for messages that do not match.
    Woken(Instant),
    /// It is answered now.
    Last,
}

impl Turn {
    /// Whether a pull by this filter that was run again and found nothing goes on waiting.
    fn waits_on(self, filter: &Filter) -> bool {
        matches!(self, Turn::Woken(until) if filter.sql().is_some() && Instant::now() < until)
    }
}

impl ParkedPull {
    /// Whether new messages of its queue are worth running it again: units from queue offset `first` on.
    pub fn wants(&self, first: u64, mut units: impl Iterator<Item = Unit>) -> bool {
        let mut offset = first;
        units.any(|unit| {
            let wanted = offset as i64 >= self.pull.queue_offset && self.filter.passes_unit(unit.tags_code);
            offset += 1;
            wanted
        })
    }

    /// The group that it is for.
    pub fn group(&self) -> &str {
        &self.pull.consumer_group
    }

    /// The connection that waits for it.
    pub fn responder(&self) -> &Responder {
        &self.responder
    }
}

/// Handles a pull that has just arrived.
pub fn pull(replica: &Arc<Replica>, request: &RemotingCommand, mut responder: Responder) {
    // Only the fields are kept while the pull waits.
    responder.release_claim();
    let pull: PullMessage = match header(request) {
        Ok(pull) => pull,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    run(replica, pull, responder, Turn::First);
}

/// Runs a pull again that waited; it waits on only when none of the messages that it was woken for matches.
pub fn run_again(replica: &Arc<Replica>, parked: ParkedPull) {
    run(replica, parked.pull, parked.responder, Turn::Woken(parked.until));
}

fn run(replica: &Arc<Replica>, pull: PullMessage, responder: Responder, turn: Turn) {
    let checked = match check(replica, &pull) {
        Ok(checked) => checked,
        Err(refusal) if turn == Turn::First && is_early(&refusal) && replica.is_behind() => {
            let replica = Arc::clone(replica);
            tokio::spawn(async move {
                replica.catch_up().await;
                run(&replica, pull, responder, Turn::Last);
            });
            return;
        }
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    if replica.tables().reset(&pull.consumer_group, checked.topic.key(), checked.queue).is_some() {
        let replica = Arc::clone(replica);
        tokio::spawn(async move { meet_reset(&replica, pull, checked, responder, turn).await });
        return;
    }
    if turn == Turn::First {
        commit(replica, &pull, &checked);
    }
    let found = look(replica, &pull, &checked, Reads::WarmOnly);
    finish(replica, pull, checked, responder, turn, found);
}

/// The group was put elsewhere, and this pull may not know it. The offset that it brings with it is from before, and is not taken.
async fn meet_reset(replica: &Arc<Replica>, pull: PullMessage, checked: Checked, responder: Responder, turn: Turn) {
    let queue = (pull.consumer_group.as_str(), &*checked.topic, checked.queue);
    let empty = responder.command(ResponseCode::SUCCESS);
    match reset_offset::meet(replica, queue, pull.queue_offset, responder.connection(), empty).await {
        Met::Pull => {
            let found = look(replica, &pull, &checked, Reads::WarmOnly);
            finish(replica, pull, checked, responder, turn, found);
        }
        Met::Moved(offset) => {
            let answer = moved(&responder, &checked, offset as i64, status::OFFSET_RESET);
            responder.send(answer);
        }
        Met::Answer(answer) => responder.send(answer),
    }
}

/// Answers with what was found, or goes on with what must happen first.
fn finish(
    replica: &Arc<Replica>,
    mut pull: PullMessage,
    checked: Checked,
    responder: Responder,
    turn: Turn,
    found: Result<Found, Refusal>,
) {
    let found = match found {
        Ok(found) => found,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    match found {
        Found::Cold => {
            let replica = Arc::clone(replica);
            tokio::spawn(async move { read_cold(&replica, pull, checked, responder, turn).await });
        }
        Found::Beyond if replica.serves() => {
            let replica = Arc::clone(replica);
            tokio::spawn(async move { confirm_beyond(&replica, pull, checked, responder, turn).await });
        }
        Found::Beyond | Found::NothingNew => wait_or_answer(replica, pull, checked, responder, turn),
        Found::Messages(none) if none.end_the_queue(&checked) && turn.waits_on(&checked.filter) => {
            pull.queue_offset = none.next_offset as i64;
            wait_or_answer(replica, pull, checked, responder, turn);
        }
        Found::Messages(messages) => {
            let count = messages.slices.len() as u64;
            replica.stats.handed_out(&pull.consumer_group, checked.topic.key(), count, replica.now_ms());
            let answer = messages.answer(&responder, &checked);
            responder.send_slices(answer, messages.slices);
        }
        Found::TooSmall => {
            // As of now: it may have moved since the checks.
            let checked = Checked { min: checked.topic.min_offset(checked.queue) as i64, ..checked };
            let answer = moved(&responder, &checked, checked.min, status::OFFSET_TOO_SMALL);
            responder.send(answer);
        }
    }
}

/// Whether a refusal may be due to a topic that is committed but not applied here: its producer may have the answer already.
fn is_early(refusal: &Refusal) -> bool {
    matches!(refusal.code, ResponseCode::TOPIC_NOT_EXIST | ResponseCode::INVALID_PARAMETER)
}

/// Reads from the disk, on a thread that may wait for it, a few at a time: a consumer that works off a backlog must not slow
/// those at the end of the log.
async fn read_cold(replica: &Arc<Replica>, pull: PullMessage, checked: Checked, responder: Responder, turn: Turn) {
    let permit = COLD_READS.acquire().await.expect("the semaphore is never closed");
    let reader = Arc::clone(replica);
    let reading = from_disk("a read of old messages", move || {
        let found = look(&reader, &pull, &checked, Reads::All);
        (pull, checked, found)
    });
    let read = reading.await;
    drop(permit);
    match read {
        Ok((pull, checked, found)) => finish(replica, pull, checked, responder, turn, found),
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

/// The offset lies beyond what this replica has applied, and it believes to lead. Asks a quorum before the client is told to
/// reset its offset.
async fn confirm_beyond(replica: &Arc<Replica>, pull: PullMessage, checked: Checked, responder: Responder, turn: Turn) {
    let confirmed = replica.read_barrier().await.is_ok();
    let end = checked.topic.next_offset(checked.queue) as i64;
    if confirmed && pull.queue_offset > end {
        let status = if end == 0 { status::NO_MESSAGE_IN_QUEUE } else { status::OFFSET_OVERFLOW_BADLY };
        let answer = moved(&responder, &checked, end, status);
        responder.send(answer);
    } else {
        wait_or_answer(replica, pull, checked, responder, turn);
    }
}

/// Parks a pull that found nothing, if it may wait; else says so.
fn wait_or_answer(replica: &Arc<Replica>, pull: PullMessage, checked: Checked, responder: Responder, turn: Turn) {
    replica.stats.handed_out(&pull.consumer_group, checked.topic.key(), 0, replica.now_ms());
    let now = Instant::now();
    let until = match turn {
        Turn::First if pull.sys_flag & FLAG_SUSPEND != 0 && !responder.is_oneway() => {
            now + Duration::from_millis(u64::try_from(pull.suspend_timeout_ms).unwrap_or(0)).min(HOLD_MAX)
        }
        Turn::Woken(until) if turn.waits_on(&checked.filter) => until,
        Turn::First | Turn::Woken(_) | Turn::Last => now,
    };
    if until <= now {
        return nothing_new(&pull, &checked, responder);
    }
    let key = QueueKey { incarnation: checked.topic.incarnation(), queue_id: pull.queue_id };
    let connection = Arc::clone(responder.connection());
    let wanted = pull.queue_offset;
    connection.has_parked.store(true, Ordering::Relaxed);
    let parked = ParkedPull { pull, filter: Arc::clone(&checked.filter), responder, until };
    match replica.pulls.park(key, until, connection.id(), parked) {
        // A message that became visible between the look and the parking has woken nobody, nor has a deletion of the topic; a
        // connection that ended in between would be forgotten by nobody.
        Ok(ticket)
            if checked.topic.next_offset(checked.queue) as i64 > wanted
                || is_gone(replica, &checked.topic)
                || connection.has_ended() =>
        {
            if let Some(parked) = replica.pulls.take(ticket) {
                // For the last time, or a busy queue could keep it here.
                run(replica, parked.pull, parked.responder, Turn::Last);
            }
        }
        Ok(_) => wake_for_reset(replica, key, &checked),
        Err(full) => nothing_new(&full.pull, &checked, full.responder),
    }
}

/// A reset that was applied between the look and the parking has woken nobody.
fn wake_for_reset(replica: &Arc<Replica>, key: QueueKey, checked: &Checked) {
    if !replica.tables().has_resets() {
        return;
    }
    let is_reset =
        |pull: &ParkedPull| replica.tables().reset(pull.group(), checked.topic.key(), checked.queue).is_some();
    for pull in replica.pulls.wake(key, is_reset) {
        run_again(replica, pull);
    }
}

/// Whether a topic was deleted since it was looked up.
fn is_gone(replica: &Replica, topic: &Topic) -> bool {
    replica.tables().topic(topic.name()).is_none_or(|now| now.incarnation() != topic.incarnation())
}

fn nothing_new(pull: &PullMessage, checked: &Checked, responder: Responder) {
    let mut answer = responder.command(ResponseCode::PULL_NOT_FOUND).with_remark(status::OFFSET_OVERFLOW_ONE);
    answer = answer.with_header(&checked.response(pull.queue_offset));
    responder.send(answer);
}

fn moved(responder: &Responder, checked: &Checked, next: i64, status: &str) -> RemotingCommand {
    responder.command(ResponseCode::PULL_OFFSET_MOVED).with_remark(status).with_header(&checked.response(next))
}

/// A pull that passed the checks.
struct Checked {
    topic: Arc<Topic>,
    queue: u32,
    filter: Arc<Filter>,
    min: i64,
}

impl Checked {
    fn response(&self, next_begin_offset: i64) -> PullMessageResponse {
        PullMessageResponse {
            suggest_which_broker_id: 0,
            next_begin_offset,
            min_offset: self.min,
            max_offset: self.topic.next_offset(self.queue) as i64,
            topic_sys_flag: None,
            group_sys_flag: None,
        }
    }
}

/// The checks, in the order in which a client may rely on them.
fn check(replica: &Arc<Replica>, pull: &PullMessage) -> Result<Checked, Refusal> {
    let group_name = &pull.consumer_group;
    let group = replica.tables().group(group_name);
    match &group {
        None => {
            ledgermq_protocol::names::check_group(group_name)
                .map_err(|error| Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, error.to_string()))?;
            replica.ensure_group(group_name);
        }
        Some(group) if !group.consume_enable => {
            let remark = format!("subscription group {group_name} may not consume");
            return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
        }
        Some(_) => {}
    }
    let Some(topic) = replica.tables().topic(&pull.topic) else {
        let remark = format!("topic {} does not exist", pull.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    };
    if !topic.settings().readable() {
        let remark = format!("pulling from topic {} is forbidden", pull.topic);
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
    }
    let queue = u32::try_from(pull.queue_id).ok().filter(|queue| *queue < topic.settings().read_queues);
    let Some(queue) = queue else {
        let queues = topic.settings().read_queues;
        let remark = format!("queue id {} is illegal, topic {} has {queues} read queues", pull.queue_id, pull.topic);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    };
    let broadcast = group.as_ref().is_none_or(|group| group.consume_broadcast_enable);
    let filter = pull_filter::of(replica, pull, broadcast)?;
    let min = topic.min_offset(queue) as i64;
    Ok(Checked { topic, queue, filter, min })
}

/// Takes the offset that a pull brings with it.
fn commit(replica: &Replica, pull: &PullMessage, checked: &Checked) {
    if pull.sys_flag & FLAG_COMMIT_OFFSET == 0 {
        return;
    }
    if let Ok(offset) = u64::try_from(pull.commit_offset) {
        replica.buffer_offset(&Arc::from(pull.consumer_group.as_str()), checked.topic.key(), checked.queue, offset);
    }
}

/// What the queue holds at the asked offset.
enum Found {
    /// Messages, or none that match among those that were looked at.
    Messages(Messages),
    /// Messages that may not be in memory.
    Cold,
    /// The offset is the next one to be written.
    NothingNew,
    /// The offset lies beyond that.
    Beyond,
    /// The offset lies before the first message.
    TooSmall,
}

struct Messages {
    slices: Vec<Bytes>,
    next_offset: u64,
}

impl Messages {
    /// Whether none matches to the end of the queue.
    fn end_the_queue(&self, checked: &Checked) -> bool {
        self.slices.is_empty() && self.next_offset == checked.topic.next_offset(checked.queue)
    }

    fn answer(&self, responder: &Responder, checked: &Checked) -> RemotingCommand {
        let (code, status) = if self.slices.is_empty() {
            (ResponseCode::PULL_RETRY_IMMEDIATELY, status::NO_MATCHED_MESSAGE)
        } else {
            (ResponseCode::SUCCESS, status::FOUND)
        };
        responder.command(code).with_remark(status).with_header(&checked.response(self.next_offset as i64))
    }
}

/// What may be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Only the end of the log, which is in memory: reading it does not block.
    WarmOnly,
    /// Everything.
    All,
}

fn look(replica: &Replica, pull: &PullMessage, checked: &Checked, reads: Reads) -> Result<Found, Refusal> {
    let end = checked.topic.next_offset(checked.queue);
    match u64::try_from(pull.queue_offset) {
        Ok(offset) if (checked.min as u64..end).contains(&offset) => read(replica, pull, checked, offset, reads),
        Ok(offset) if offset == end && offset >= checked.min as u64 => Ok(Found::NothingNew),
        Ok(offset) if offset > end => Ok(Found::Beyond),
        _ => Ok(Found::TooSmall),
    }
}

fn read(replica: &Replica, pull: &PullMessage, checked: &Checked, from: u64, reads: Reads) -> Result<Found, Refusal> {
    let warm_from = replica.handle.reader().published().0.saturating_sub(WARM_WINDOW);
    let messages_max = usize::try_from(pull.max_msg_nums).unwrap_or(0).clamp(1, MESSAGES_MAX);
    let bytes_max = pull
        .max_msg_bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .map_or(BYTES_DEFAULT, |bytes| bytes.clamp(1, BYTES_MAX));
    let mut messages = Messages { slices: Vec::new(), next_offset: from };
    let mut bytes = 0;
    let mut scanned = 0;
    let mut sql_work = 0;
    let batch = match *checked.filter {
        Filter::Tags(TagFilter::All) => messages_max,
        Filter::Tags(TagFilter::Codes(_)) => UNITS_PER_READ_MAX,
        Filter::Sql(_) => UNITS_PER_READ_SQL,
    };
    while scanned < UNITS_SCANNED_MAX && sql_work < SQL_WORK_MAX {
        let units = replica
            .queues
            .read(&checked.topic, checked.queue, messages.next_offset, batch)
            .map_err(|error| unreadable(&error))?;
        if units.is_empty() {
            break;
        }
        for unit in units {
            if checked.filter.passes_unit(unit.tags_code) {
                let full = messages.slices.len() == messages_max || bytes + unit.size as usize > bytes_max;
                if full && !messages.slices.is_empty() {
                    return Ok(Found::Messages(messages));
                }
                if reads == Reads::WarmOnly && unit.physical_offset < warm_from {
                    return Ok(Found::Cold);
                }
                let read = record_of(replica, checked, messages.next_offset, &unit)?;
                if reads == Reads::WarmOnly && matches!(read, Record::Elsewhere) {
                    return Ok(Found::Cold);
                }
                let Some((unit, record)) = read.or_mend(replica, checked, messages.next_offset, unit)? else {
                    // Given up meanwhile: the client goes on where the queue begins now.
                    let none = messages.slices.is_empty();
                    return Ok(if none { Found::TooSmall } else { Found::Messages(messages) });
                };
                let matches = match checked.filter.sql() {
                    None => true,
                    Some(sql) => {
                        let properties = RecordRef::decode(&record).map_err(|error| unreadable(&error))?.properties();
                        sql_work += SQL_WORK_OF_MESSAGE + sql.work(properties.len());
                        sql.matches(properties)
                    }
                };
                if matches {
                    messages.slices.push(record);
                    bytes += unit.size as usize;
                }
            }
            messages.next_offset += 1;
            scanned += 1;
            if sql_work >= SQL_WORK_MAX {
                break;
            }
        }
        if messages.slices.len() == messages_max {
            break;
        }
    }
    Ok(Found::Messages(messages))
}

/// What a unit leads to.
enum Record {
    Here(Bytes),
    /// Given up since the unit was read.
    Gone,
    /// Not to the message of this offset: the unit is damaged.
    Elsewhere,
}

fn record_of(replica: &Replica, checked: &Checked, offset: u64, unit: &Unit) -> Result<Record, Refusal> {
    match replica.handle.reader().read(LogPos(unit.physical_offset), unit.size as usize) {
        Ok(record) if queue_mend::leads_to(&record, unit, checked.queue, offset) => Ok(Record::Here(record)),
        _ if offset < checked.topic.min_offset(checked.queue) => Ok(Record::Gone),
        Ok(_) | Err(ViewError::Gone { .. } | ViewError::OutOfRange { .. }) => Ok(Record::Elsewhere),
        Err(error) => Err(unreadable(&error)),
    }
}

impl Record {
    /// The unit as it should be, and its record; `None` when it was given up. A damaged unit is mended first.
    fn or_mend(
        self,
        replica: &Replica,
        checked: &Checked,
        offset: u64,
        unit: Unit,
    ) -> Result<Option<(Unit, Bytes)>, Refusal> {
        match self {
            Record::Here(record) => Ok(Some((unit, record))),
            Record::Gone => Ok(None),
            Record::Elsewhere => queue_mend::mend(replica, &checked.topic, checked.queue, offset).map(Some),
        }
    }
}

/// The record of a unit; `None` when it was given up since the unit was read.
fn record_bytes(replica: &Replica, unit: Unit) -> Result<Option<Bytes>, Refusal> {
    let position = LogPos(unit.physical_offset);
    match replica.handle.reader().read(position, unit.size as usize) {
        Err(ViewError::Gone { .. }) => Ok(None),
        read => read.map(Some).map_err(|error| unreadable(&error)),
    }
}

/// Reads one record of a queue and takes something out of it; `None` when it was given up meanwhile.
pub(super) fn record_at<T>(
    replica: &Replica,
    unit: &Unit,
    take: impl FnOnce(RecordRef<'_>) -> T,
) -> Result<Option<T>, Refusal> {
    let bytes = record_bytes(replica, *unit)?;
    let taken = bytes.map(|bytes| RecordRef::decode(&bytes).map(take));
    taken.transpose().map_err(|error| unreadable(&error))
}

pub(super) fn unreadable(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "stored messages cannot be read");
    Refusal::new(ResponseCode::SYSTEM_ERROR, format!("stored messages cannot be read: {error}"))
}
