//! Hand-made histories: a good one, and one for every way to break a promise. Each must be called by its name.

use super::*;

const RUN: u64 = 0xfeed;

/// A history under construction, with a clock that ticks at every line.
struct Script {
    events: Vec<Event>,
    reads: Vec<Read>,
    now_ns: u64,
}

impl Script {
    fn new(queues: u32, keys: u32) -> Script {
        let begin = Event::Begin { run: RUN, topic: "t".into(), queues, keys, messages: 0, brokers: Vec::new() };
        Script { events: vec![begin], reads: Vec::new(), now_ns: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.now_ns += 1;
        self.now_ns
    }

    fn invoke(&mut self, key: u32, seq: u64, attempt: u32, queue: u32) -> &mut Self {
        let at_ns = self.tick();
        self.events.push(Event::Invoke { run: RUN, at_ns, key, seq, attempt, queue });
        self
    }

    fn ok(&mut self, key: u32, seq: u64, attempt: u32, queue: u32, queue_offset: u64) -> &mut Self {
        let at_ns = self.tick();
        self.events.push(Event::Ok { run: RUN, at_ns, key, seq, attempt, queue, queue_offset, msg_id: "id".into() });
        self
    }

    fn info(&mut self, key: u32, seq: u64, attempt: u32) -> &mut Self {
        let at_ns = self.tick();
        self.events.push(Event::Info { run: RUN, at_ns, key, seq, attempt, error: "time-out".into() });
        self
    }

    fn fail(&mut self, key: u32, seq: u64, attempt: u32) -> &mut Self {
        let at_ns = self.tick();
        self.events.push(Event::Fail { run: RUN, at_ns, key, seq, attempt, error: "not leader".into() });
        self
    }

    fn sent(&mut self, key: u32, seq: u64, queue: u32, queue_offset: u64) -> &mut Self {
        self.invoke(key, seq, 0, queue).ok(key, seq, 0, queue, queue_offset)
    }

    fn read(&mut self, queue: u32, queue_offset: u64, key: u32, seq: u64) -> &mut Self {
        self.read_as(Pass::Final, queue, queue_offset, Some(Identity { run: RUN, key, seq }))
    }

    fn read_as(&mut self, pass: Pass, queue: u32, queue_offset: u64, id: Option<Identity>) -> &mut Self {
        let at_ns = self.tick();
        self.reads.push(Read { pass, at_ns, queue, queue_offset, id });
        self
    }

    fn verdict(&self) -> Verdict {
        verify(&self.events, &self.reads)
    }

    /// The names of what was found, with counts.
    fn named(&self) -> Vec<(&'static str, u64)> {
        self.verdict().findings.iter().map(|(anomaly, finding)| (anomaly.name(), finding.count)).collect()
    }
}

/// Two keys in two queues, one message of them retried and there twice: all that faults are allowed to do.
fn good() -> Script {
    let mut script = Script::new(2, 2);
    script.sent(0, 0, 0, 0).sent(1, 0, 1, 0);
    script.invoke(0, 1, 0, 0).info(0, 1, 0).invoke(0, 1, 1, 0).fail(0, 1, 1).invoke(0, 1, 2, 0).ok(0, 1, 2, 0, 2);
    script.sent(1, 1, 1, 1).sent(0, 2, 0, 3);
    script.read(0, 0, 0, 0).read(0, 1, 0, 1).read(0, 2, 0, 1).read(0, 3, 0, 2);
    script.read(1, 0, 1, 0).read(1, 1, 1, 1);
    for (queue, offset, key, seq) in [(0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 1, 0)] {
        script.read_as(Pass::Live, queue, offset, Some(Identity { run: RUN, key, seq }));
    }
    script
}

#[test]
fn a_good_history_is_clean_and_counted() {
    let verdict = good().verdict();
    assert!(verdict.clean(), "{:?}", verdict.findings);
    assert_eq!(verdict.acknowledged, 5);
    assert_eq!(verdict.consumed, 6);
    assert_eq!(verdict.duplicates, 1, "the copy of a retried message is counted, and nobody's fault");
    assert_eq!((verdict.unknown_tries, verdict.failed_tries), (1, 1));
}

#[test]
fn an_acknowledged_message_that_is_not_there_is_lost() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).sent(0, 1, 0, 1).read(0, 0, 0, 0);
    assert_eq!(script.named(), [("lost", 1)]);
}

#[test]
fn losing_everything_is_seen() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).sent(0, 1, 0, 1);
    assert_eq!(script.named(), [("lost", 2)]);
}

#[test]
fn an_unknown_try_may_be_missing() {
    let mut script = Script::new(1, 1);
    script.invoke(0, 0, 0, 0).info(0, 0, 0).invoke(0, 0, 1, 0).ok(0, 0, 1, 0, 0).read(0, 0, 0, 0);
    assert_eq!(script.named(), []);
}

#[test]
fn a_lost_message_whose_place_was_taken_is_lost() {
    let mut script = Script::new(1, 2);
    script.sent(0, 0, 0, 0).sent(1, 0, 0, 1).read(0, 0, 1, 0);
    assert_eq!(script.named(), [("lost", 1), ("offset clash", 1)]);
}

#[test]
fn more_copies_than_tries_are_duplicated() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read(0, 0, 0, 0).read(0, 1, 0, 0);
    assert_eq!(script.named(), [("duplicated", 1)]);
}

#[test]
fn a_refused_try_does_not_excuse_a_copy() {
    let mut script = Script::new(1, 1);
    script.invoke(0, 0, 0, 0).fail(0, 0, 0).invoke(0, 0, 1, 0).ok(0, 0, 1, 0, 0);
    script.read(0, 0, 0, 0).read(0, 1, 0, 0);
    assert_eq!(script.named(), [("duplicated", 1)]);
}

#[test]
fn swapped_messages_of_a_key_are_out_of_order() {
    let mut script = Script::new(1, 1);
    // Acknowledgements that agree with the swapped places, so that only the order is wrong.
    script.invoke(0, 0, 0, 0).invoke(0, 1, 0, 0).ok(0, 1, 0, 0, 0).ok(0, 0, 0, 0, 1);
    script.read(0, 0, 0, 1).read(0, 1, 0, 0);
    assert_eq!(script.named(), [("out of order", 1)]);
}

#[test]
fn a_late_copy_is_no_disorder() {
    let mut script = Script::new(1, 1);
    script.invoke(0, 0, 0, 0).info(0, 0, 0).invoke(0, 0, 1, 0).ok(0, 0, 1, 0, 0).sent(0, 1, 0, 1);
    script.read(0, 0, 0, 0).read(0, 1, 0, 1).read(0, 2, 0, 0);
    assert_eq!(script.named(), [], "order is judged by first occurrences");
}

#[test]
fn a_message_that_nobody_sent_is_a_phantom() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read(0, 0, 0, 0).read(0, 1, 0, 7);
    assert_eq!(script.named(), [("phantom", 1)]);
}

#[test]
fn a_message_of_another_run_is_a_phantom() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read(0, 0, 0, 0);
    script.read_as(Pass::Final, 0, 1, Some(Identity { run: RUN + 1, key: 0, seq: 0 }));
    assert_eq!(script.named(), [("phantom", 1)]);
}

#[test]
fn a_message_that_was_always_refused_is_a_phantom() {
    let mut script = Script::new(1, 1);
    script.invoke(0, 0, 0, 0).fail(0, 0, 0).read(0, 0, 0, 0);
    assert_eq!(script.named(), [("phantom", 1), ("unsettled", 1)]);
}

#[test]
fn a_changed_body_is_corrupt() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read_as(Pass::Final, 0, 0, None);
    assert_eq!(script.named(), [("lost", 1), ("corrupt", 1)]);
}

#[test]
fn two_acknowledgements_of_one_offset_clash() {
    let mut script = Script::new(1, 2);
    script.invoke(0, 0, 0, 0).invoke(1, 0, 0, 0).ok(0, 0, 0, 0, 0).ok(1, 0, 0, 0, 0);
    script.read(0, 0, 0, 0).read(0, 1, 1, 0);
    assert_eq!(script.verdict().count(Anomaly::OffsetClash), 2, "the pair, and the one that lies elsewhere");
}

#[test]
fn a_reply_with_the_wrong_offset_clashes_with_the_reading() {
    let mut script = Script::new(1, 2);
    script.invoke(0, 0, 0, 0).invoke(1, 0, 0, 0).ok(0, 0, 0, 0, 1).ok(1, 0, 0, 0, 0);
    script.read(0, 0, 0, 0).read(0, 1, 1, 0);
    assert_eq!(script.named(), [("offset clash", 2)]);
}

#[test]
fn a_hole_in_the_offsets_is_a_gap() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).sent(0, 1, 0, 2).read(0, 0, 0, 0).read(0, 2, 0, 1);
    let verdict = script.verdict();
    assert_eq!(verdict.count(Anomaly::Gap), 1);
    assert_eq!(verdict.count(Anomaly::Lost), 0);
}

#[test]
fn a_queue_that_does_not_begin_at_zero_has_a_gap() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 3).read(0, 3, 0, 0);
    assert_eq!(script.verdict().count(Anomaly::Gap), 1);
}

#[test]
fn an_offset_read_twice_in_one_pass_is_a_gap() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read(0, 0, 0, 0).read(0, 0, 0, 0);
    assert_eq!(script.named(), [("gap", 1)]);
}

#[test]
fn a_message_that_changed_between_two_readings_diverged() {
    let mut script = Script::new(1, 2);
    script.sent(0, 0, 0, 0).sent(1, 0, 0, 1).read(0, 0, 0, 0).read(0, 1, 1, 0);
    script.read_as(Pass::Live, 0, 0, Some(Identity { run: RUN, key: 1, seq: 0 }));
    assert_eq!(script.named(), [("diverged", 1)]);
}

#[test]
fn a_message_that_vanished_after_it_was_read_diverged() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).read(0, 0, 0, 0);
    script.read_as(Pass::Live, 0, 0, Some(Identity { run: RUN, key: 0, seq: 0 }));
    script.read_as(Pass::Live, 0, 1, Some(Identity { run: RUN, key: 0, seq: 1 }));
    assert_eq!(script.named(), [("diverged", 1)]);
}

#[test]
fn a_later_send_at_a_lower_offset_is_stale_order() {
    let mut script = Script::new(1, 2);
    script.sent(0, 0, 0, 1).sent(1, 0, 0, 0).read(0, 0, 1, 0).read(0, 1, 0, 0);
    assert_eq!(script.named(), [("stale order", 1)]);
}

#[test]
fn a_key_in_two_queues_has_moved() {
    let mut script = Script::new(2, 1);
    script.sent(0, 0, 0, 0).sent(0, 1, 1, 0).read(0, 0, 0, 0).read(1, 0, 0, 1);
    assert_eq!(script.named(), [("key moved", 1)]);
}

#[test]
fn a_message_without_an_answer_is_unsettled() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).invoke(0, 1, 0, 0).read(0, 0, 0, 0);
    assert_eq!(script.named(), [("unsettled", 1)]);
}

#[test]
fn a_history_without_a_beginning_is_malformed() {
    assert_eq!(verify(&[], &[]).count(Anomaly::MalformedHistory), 1);
}

#[test]
fn outcomes_without_a_send_are_malformed() {
    let mut script = Script::new(1, 1);
    script.ok(0, 0, 0, 0, 0);
    assert_eq!(script.verdict().count(Anomaly::MalformedHistory), 1);
}

#[test]
fn a_second_outcome_of_one_try_is_malformed() {
    let mut script = Script::new(1, 1);
    script.sent(0, 0, 0, 0).info(0, 0, 0).read(0, 0, 0, 0);
    assert_eq!(script.named(), [("malformed history", 1)]);
}

#[test]
fn examples_are_bounded_and_counts_are_not() {
    let mut script = Script::new(1, 1);
    for seq in 0..100 {
        script.sent(0, seq, 0, seq);
    }
    let verdict = script.verdict();
    assert_eq!(verdict.count(Anomaly::Lost), 100);
    assert_eq!(verdict.findings[&Anomaly::Lost].examples.len(), EXAMPLES_MAX);
}
