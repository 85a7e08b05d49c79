//! The judge is judged: hand-made bad histories, each of which must be flagged by its own name, and good ones, damaged at
//! random, none of which may pass.

use proptest::prelude::*;

use super::*;

const TOPIC: &str = "t";

/// Writes histories in few words. Time advances by one per event.
#[derive(Default)]
struct Book {
    t: u64,
    op: u64,
    history: History,
}

impl Book {
    fn put(&mut self, event: impl FnOnce(u64) -> Event) {
        self.t += 1;
        self.history.events.push(event(self.t));
    }

    fn invoke(&mut self, process: &str, id: &str) -> u64 {
        self.op += 1;
        let (op, process, id) = (self.op, process.to_owned(), id.to_owned());
        let hash = format!("h-{id}");
        self.put(|t| Event::Invoke { t, process, op, id, topic: TOPIC.into(), hash, attempts: 1 });
        op
    }

    fn ok(&mut self, process: &str, op: u64, queue: i32, offset: u64) {
        let process = process.to_owned();
        self.put(|t| Event::Ok { t, process, op, queue, offset });
    }

    fn send(&mut self, process: &str, id: &str, queue: i32, offset: u64) {
        let op = self.invoke(process, id);
        self.ok(process, op, queue, offset);
    }

    fn info(&mut self, process: &str, op: u64) {
        let process = process.to_owned();
        self.put(|t| Event::Info { t, process, op, error: "timeout".into() });
    }

    fn fail(&mut self, process: &str, op: u64) {
        let process = process.to_owned();
        self.put(|t| Event::Fail { t, process, op, error: "refused".into() });
    }

    fn stored(&mut self, queue: i32, offset: u64, id: &str) {
        self.stored_by("reader", queue, offset, id, &format!("h-{id}"));
    }

    fn stored_by(&mut self, process: &str, queue: i32, offset: u64, id: &str, hash: &str) {
        let (process, id, hash) = (process.to_owned(), id.to_owned(), hash.to_owned());
        self.put(|t| Event::Final { t, process, topic: TOPIC.into(), queue, offset, id, hash });
    }

    fn deliver(&mut self, process: &str, queue: i32, offset: u64, id: &str) {
        let (process, id, hash) = (process.to_owned(), id.to_owned(), format!("h-{id}"));
        self.put(|t| Event::Deliver {
            t,
            process,
            group: "g".into(),
            topic: TOPIC.into(),
            queue,
            offset,
            id,
            hash,
            tag: None,
            keys: None,
            user: None,
            ordered: true,
        });
    }

    fn observe(&mut self, what: &str, value: u64) {
        let what = what.to_owned();
        self.put(|t| Event::Observe { t, process: "o".into(), what, value });
    }
}

/// Two acknowledged messages, both stored and delivered.
fn good() -> Book {
    let mut book = Book::default();
    book.send("p", "a", 0, 0);
    book.send("p", "b", 0, 1);
    book.stored(0, 0, "a");
    book.stored(0, 1, "b");
    book.deliver("c", 0, 0, "a");
    book.deliver("c", 0, 1, "b");
    book
}

fn strict() -> Expect {
    Expect { complete_groups: vec![("g".into(), TOPIC.into())], redelivery_only_in_faults: true }
}

#[track_caller]
fn flags(book: &Book, expected: &[Anomaly]) {
    let report = check(&book.history, &strict());
    let found: Vec<Anomaly> = report.anomalies.keys().copied().collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{report}");
}

#[test]
fn a_good_history_passes() {
    let mut book = good();
    flags(&book, &[]);
    // Unknown outcomes may appear or not; a refused send may be retried under the same id.
    let op = book.invoke("q", "c");
    book.info("q", op);
    let op = book.invoke("q", "d");
    book.info("q", op);
    let op = book.invoke("q", "e");
    book.fail("q", op);
    book.send("q", "e", 0, 3);
    book.invoke("q", "f");
    book.stored(0, 2, "d");
    book.stored(0, 3, "e");
    book.deliver("c", 0, 2, "d");
    book.deliver("c", 0, 3, "e");
    book.observe("term", 3);
    book.observe("term", 3);
    flags(&book, &[]);
    let report = check(&book.history, &strict());
    assert_eq!((report.sends, report.acked, report.unknown, report.stored), (7, 3, 3, 4));
}

#[test]
fn an_acknowledged_message_that_is_gone_is_lost() {
    let mut book = good();
    book.send("p", "c", 0, 2);
    flags(&book, &[Anomaly::Lost]);
}

#[test]
fn a_whole_queue_that_is_gone_is_lost() {
    let mut book = good();
    book.send("p", "c", 7, 0);
    book.send("p", "d", 7, 1);
    flags(&book, &[Anomaly::Lost]);
    assert_eq!(check(&book.history, &strict()).count(Anomaly::Lost), 2);
}

#[test]
fn an_acknowledged_message_in_the_middle_that_is_gone_is_lost_and_a_gap() {
    let mut book = Book::default();
    book.send("p", "a", 0, 0);
    book.send("p", "b", 0, 1);
    book.send("p", "c", 0, 2);
    for (offset, id) in [(0, "a"), (2, "c")] {
        book.stored(0, offset, id);
        book.deliver("c", 0, offset, id);
    }
    flags(&book, &[Anomaly::Lost, Anomaly::Gap]);
}

#[test]
fn a_message_at_another_place_than_its_acknowledgement_names_is_lost_there() {
    let mut book = Book::default();
    book.send("p", "a", 0, 5);
    book.stored(0, 0, "a");
    book.deliver("c", 0, 0, "a");
    flags(&book, &[Anomaly::Lost]);
}

#[test]
fn a_place_taken_by_another_message_is_divergent_and_lost() {
    let mut book = Book::default();
    let op = book.invoke("q", "b");
    book.info("q", op);
    book.send("p", "a", 0, 0);
    book.stored(0, 0, "b");
    book.deliver("c", 0, 0, "b");
    flags(&book, &[Anomaly::Lost, Anomaly::Divergent]);
}

#[test]
fn two_acknowledgements_of_one_place_are_divergent() {
    let mut book = good();
    let x = book.invoke("x", "x");
    let y = book.invoke("y", "y");
    book.ok("x", x, 0, 2);
    book.ok("y", y, 0, 2);
    book.stored(0, 2, "x");
    book.deliver("c", 0, 2, "x");
    flags(&book, &[Anomaly::Lost, Anomaly::Divergent]);
}

#[test]
fn replicas_with_different_content_are_divergent() {
    let mut book = Book::default();
    for id in ["a", "b"] {
        let op = book.invoke(id, id);
        book.info(id, op);
    }
    book.stored_by("replica 1", 0, 0, "a", "h-a");
    book.stored_by("replica 2", 0, 0, "b", "h-b");
    book.deliver("c", 0, 0, "a");
    flags(&book, &[Anomaly::Divergent]);
}

#[test]
fn a_delivery_that_later_readings_contradict_is_divergent() {
    let mut book = Book::default();
    for id in ["a", "b"] {
        let op = book.invoke(id, id);
        book.info(id, op);
    }
    book.deliver("c", 0, 0, "a");
    book.stored(0, 0, "b");
    flags(&book, &[Anomaly::Divergent]);
}

#[test]
fn a_message_that_nobody_sent_is_a_phantom() {
    let mut book = good();
    book.stored(0, 2, "ghost");
    book.deliver("c", 0, 2, "ghost");
    flags(&book, &[Anomaly::Phantom]);
}

#[test]
fn a_delivered_message_that_nobody_sent_is_a_phantom() {
    let mut book = good();
    book.deliver("c", 0, 2, "ghost");
    flags(&book, &[Anomaly::Phantom, Anomaly::Vanished]);
}

#[test]
fn a_refused_message_must_not_appear() {
    let mut book = good();
    let op = book.invoke("q", "c");
    book.fail("q", op);
    book.stored(0, 2, "c");
    book.deliver("c", 0, 2, "c");
    flags(&book, &[Anomaly::FailedAppeared]);
}

#[test]
fn other_bytes_are_altered() {
    let mut book = good();
    book.send("p", "c", 0, 2);
    book.stored_by("reader", 0, 2, "c", "h-other");
    book.deliver("c", 0, 2, "c");
    flags(&book, &[Anomaly::Altered]);
}

#[test]
fn one_attempt_stored_twice_is_a_duplicate() {
    let mut book = good();
    book.send("p", "c", 0, 2);
    for offset in [2, 3] {
        book.stored(0, offset, "c");
        book.deliver("c", 0, offset, "c");
    }
    flags(&book, &[Anomaly::Duplicate]);
}

#[test]
fn one_attempt_stored_in_two_queues_is_a_duplicate() {
    let mut book = good();
    book.send("p", "c", 0, 2);
    for (queue, offset) in [(0, 2), (1, 0)] {
        book.stored(queue, offset, "c");
        book.deliver("c", queue, offset, "c");
    }
    flags(&book, &[Anomaly::Duplicate]);
}

#[test]
fn a_retry_after_an_unknown_outcome_may_be_stored_twice_but_not_thrice() {
    let mut book = good();
    let op = book.invoke("p", "c");
    book.info("p", op);
    book.send("p", "c", 0, 3);
    for offset in [2, 3] {
        book.stored(0, offset, "c");
        book.deliver("c", 0, offset, "c");
    }
    flags(&book, &[]);
    book.stored(0, 4, "c");
    book.deliver("c", 0, 4, "c");
    flags(&book, &[Anomaly::Duplicate]);
}

#[test]
fn a_retry_after_a_refusal_may_be_stored_once_only() {
    let mut book = good();
    let op = book.invoke("p", "c");
    book.fail("p", op);
    book.send("p", "c", 0, 2);
    for offset in [2, 3] {
        book.stored(0, offset, "c");
        book.deliver("c", 0, offset, "c");
    }
    flags(&book, &[Anomaly::Duplicate]);
}

#[test]
fn a_hole_in_a_queue_is_a_gap() {
    let mut book = good();
    let op = book.invoke("q", "c");
    book.info("q", op);
    book.stored(0, 3, "c");
    book.deliver("c", 0, 3, "c");
    flags(&book, &[Anomaly::Gap]);
}

#[test]
fn a_queue_that_does_not_begin_at_zero_is_a_gap() {
    let mut book = good();
    book.send("p", "c", 1, 1);
    book.stored(1, 1, "c");
    book.deliver("c", 1, 1, "c");
    flags(&book, &[Anomaly::Gap]);
}

#[test]
fn a_later_send_below_an_acknowledged_one_breaks_real_time_order() {
    let mut book = Book::default();
    book.send("p", "a", 0, 1);
    book.send("q", "b", 0, 0);
    for (offset, id) in [(0, "b"), (1, "a")] {
        book.stored(0, offset, id);
        book.deliver("c", 0, offset, id);
    }
    flags(&book, &[Anomaly::RealTimeOrder]);
}

#[test]
fn a_later_send_of_unknown_outcome_below_an_acknowledged_one_breaks_real_time_order() {
    let mut book = Book::default();
    book.send("p", "a", 0, 1);
    let op = book.invoke("q", "b");
    book.info("q", op);
    for (offset, id) in [(0, "b"), (1, "a")] {
        book.stored(0, offset, id);
        book.deliver("c", 0, offset, id);
    }
    flags(&book, &[Anomaly::RealTimeOrder]);
}

#[test]
fn overlapping_sends_may_be_stored_in_either_order() {
    let mut book = Book::default();
    let a = book.invoke("p", "a");
    let b = book.invoke("q", "b");
    book.ok("p", a, 0, 1);
    book.ok("q", b, 0, 0);
    for (offset, id) in [(0, "b"), (1, "a")] {
        book.stored(0, offset, id);
        book.deliver("c", 0, offset, id);
    }
    flags(&book, &[]);
}

#[test]
fn falling_offsets_of_one_producer_break_its_order_whatever_the_clock_says() {
    let mut book = Book::default();
    book.send("p", "a", 0, 1);
    book.send("p", "b", 0, 0);
    // A clock that stood still hides it from the real-time rule.
    for event in &mut book.history.events {
        if let Event::Invoke { t, .. } | Event::Ok { t, .. } = event {
            *t = 1;
        }
    }
    for (offset, id) in [(0, "b"), (1, "a")] {
        book.stored(0, offset, id);
        book.deliver("c", 0, offset, id);
    }
    flags(&book, &[Anomaly::ProducerOrder]);
}

#[test]
fn a_first_delivery_below_an_earlier_one_breaks_delivery_order() {
    let mut book = Book::default();
    for (offset, id) in [(0, "a"), (1, "b")] {
        book.send("p", id, 0, offset);
        book.stored(0, offset, id);
    }
    book.deliver("c", 0, 1, "b");
    book.deliver("c", 0, 0, "a");
    flags(&book, &[Anomaly::DeliveryOrder]);
}

#[test]
fn what_was_delivered_and_is_gone_has_vanished() {
    let mut book = good();
    let op = book.invoke("q", "c");
    book.info("q", op);
    book.deliver("c", 0, 2, "c");
    flags(&book, &[Anomaly::Vanished]);
}

#[test]
fn what_a_complete_group_never_saw_is_undelivered() {
    let mut book = good();
    book.send("p", "c", 0, 2);
    book.stored(0, 2, "c");
    flags(&book, &[Anomaly::Undelivered]);
}

#[test]
fn a_group_that_saw_nothing_at_all_is_undelivered() {
    let mut book = good();
    book.history.events.retain(|e| !matches!(e, Event::Deliver { .. }));
    flags(&book, &[Anomaly::Undelivered]);
}

#[test]
fn a_second_delivery_needs_a_fault() {
    let mut book = good();
    book.deliver("d", 0, 1, "b");
    flags(&book, &[Anomaly::Redelivered]);
    let until = book.t;
    book.put(|_| Event::Fault { t: until - 1, until, what: "kill".into() });
    flags(&book, &[]);
}

#[test]
fn the_later_of_two_deliveries_is_the_second_in_whichever_file_it_stands() {
    let mut book = good();
    let early = book.t;
    book.deliver("d", 0, 1, "b");
    let fault = book.t;
    book.put(|_| Event::Fault { t: fault, until: fault, what: "kill".into() });
    flags(&book, &[]);
    // The file of the consumer that was handed it again is read first.
    let again = book.history.events.remove(book.history.events.len() - 2);
    book.history.events.insert(0, again);
    flags(&book, &[]);
    assert!(early < fault);
}

#[test]
fn a_number_that_falls_went_back() {
    let mut book = good();
    book.observe("maximum offset", 4);
    book.observe("term", 1);
    book.observe("maximum offset", 3);
    flags(&book, &[Anomaly::WentBack]);
}

#[test]
fn an_outcome_without_a_call_is_malformed() {
    let mut book = good();
    book.ok("p", 99, 0, 0);
    flags(&book, &[Anomaly::Malformed]);
}

#[test]
fn two_outcomes_of_a_call_are_malformed() {
    let mut book = good();
    book.fail("p", 1);
    flags(&book, &[Anomaly::Malformed]);
}

#[test]
fn a_call_number_used_twice_is_malformed() {
    let mut book = good();
    book.op -= 1;
    let op = book.invoke("p", "c");
    book.info("p", op);
    flags(&book, &[Anomaly::Malformed]);
}

/// A clean history of `count` sends by three processes over two queues.
fn clean(count: u64) -> Book {
    let mut book = Book::default();
    let mut next = [0u64; 2];
    for n in 0..count {
        let queue = (n % 2) as usize;
        book.send(&format!("p{}", n % 3), &format!("m{n}"), queue as i32, next[queue]);
        next[queue] += 1;
    }
    for n in 0..count {
        book.stored((n % 2) as i32, n / 2, &format!("m{n}"));
    }
    for n in 0..count {
        book.deliver("c", (n % 2) as i32, n / 2, &format!("m{n}"));
    }
    book
}

proptest! {
    /// Any single damage to a good history must be seen.
    #[test]
    fn random_damage_never_passes(count in 4u64..60, pick in any::<prop::sample::Index>(), kind in 0u8..5) {
        let mut book = clean(count);
        prop_assert!(check(&book.history, &strict()).clean());
        let events = &mut book.history.events;
        let finals: Vec<usize> =
            (0..events.len()).filter(|n| matches!(events[*n], Event::Final { .. })).collect();
        let at = finals[pick.index(finals.len())];
        match kind {
            // Dropped from the log.
            0 => { events.remove(at); }
            // Stored once more at the end of its queue.
            1 => {
                let mut copy = events[at].clone();
                if let Event::Final { queue, offset, .. } = &mut copy {
                    *offset = (count - *queue as u64).div_ceil(2);
                }
                events.push(copy);
            }
            // Altered bytes.
            2 => if let Event::Final { hash, .. } = &mut events[at] { hash.push('!') },
            // Two neighbours of a queue swapped in the log.
            3 => {
                let other = if at + 2 < finals[0] + finals.len() { at + 2 } else { at - 2 };
                let ids: Vec<String> = [at, other].iter().map(|n| match &events[*n] {
                    Event::Final { id, .. } => id.clone(),
                    _ => String::new(),
                }).collect();
                for (n, new) in [(at, &ids[1]), (other, &ids[0])] {
                    if let Event::Final { id, hash, .. } = &mut events[n] {
                        *id = new.clone();
                        *hash = format!("h-{new}");
                    }
                }
            }
            // A delivery left out.
            _ => {
                let delivery = at + finals.len();
                prop_assert!(matches!(events[delivery], Event::Deliver { .. }), "deliveries follow the final reading");
                events.remove(delivery);
            }
        }
        let report = check(&book.history, &strict());
        prop_assert!(!report.clean(), "kind {} at {} passed", kind, at);
    }
}
