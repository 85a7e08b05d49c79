//! Request-reply by official clients against a cluster of real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use ledgermq_tests::cluster::{PATIENCE, report};
use ledgermq_tests::history::{Event, History, monotonic_ns};
use ledgermq_tests::peer::{Library, Peer};
use ledgermq_tests::replicas;
use ledgermq_tests::stage::Stage;

const LIBRARIES: [Library; 3] = [Library::Java5, Library::Java4, Library::Go];

/// Requests of a phase.
const PHASE: usize = 50;

/// Longest silence after a kill: clients ask for routes every 30 s, and the request that comes upon a dead address waits first.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// One library's part: somebody who answers, and somebody who asks.
struct Talk {
    library: Library,
    responder: Peer,
    asker: Peer,
}

impl Talk {
    fn begin(stage: &mut Stage, library: Library, more: &[(&str, &str)]) -> Talk {
        stage.play_on(library);
        let topic = stage.name("asked");
        // One message makes the topic, in one group alone: the replies come to others, too.
        stage.send(&stage.name("seed"), &topic, "sync", 1).unwrap();
        let responder = stage.name("responder");
        let mut responder = stage.respond(&responder, &topic, &responder, more).unwrap();
        responder.await_history("the first message", PATIENCE, |h| h.delivered_ids().len() == 1).unwrap();
        let asker = stage.request(&stage.name("asker"), &topic, &[more, &[("pause-ms", "10")]].concat()).unwrap();
        Talk { library, responder, asker }
    }

    /// Ends the talk: the histories of who asked and who answered.
    fn end(self) -> (Library, History, History) {
        let files = [self.asker, self.responder].map(|peer| peer.stop().unwrap());
        let [asked, answered] = files.map(|file| History::read(&[file]).unwrap());
        let wrong = |e: &&Event| matches!(e, Event::Mark { what, .. } if what.starts_with("wrong"));
        let wrong: Vec<&Event> = asked.events.iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", self.library.name());
        (self.library, asked, answered)
    }
}

/// What went wrong from a time on: requests without an answer, and replies that were refused.
fn failures(history: &History, since: u64) -> Vec<&Event> {
    let failed = |e: &&Event| match e {
        Event::Info { t, .. } | Event::Fail { t, .. } => *t > since,
        Event::Mark { t, what, .. } => *t > since && what.starts_with("refused"),
        _ => false,
    };
    history.events.iter().filter(failed).take(3).collect()
}

/// Would break: asking a service through the broker. Each library asks, and is answered by its own kind, from the first request on,
/// while the topic that carries the requests is led by one node and replies come to all of three.
#[test]
fn every_request_is_answered_from_the_first_one_on() {
    let mut stage = Stage::start_with(Library::Java5, 3).unwrap();
    for library in LIBRARIES {
        let mut talk = Talk::begin(&mut stage, library, &[]);
        talk.asker.await_history("answers", PATIENCE, |h| h.acked() >= PHASE).unwrap();
        let (library, asked, answered) = talk.end();
        let name = library.name();
        assert_eq!(failures(&asked, 0), Vec::<&Event>::new(), "{name}: a request was not answered");
        assert_eq!(failures(&answered, 0), Vec::<&Event>::new(), "{name}: a reply was refused");
    }
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: services through a failover. The leader of requests and replies dies; once clients know the next one, every request
/// is answered again, and none ever with another one's answer.
#[test]
fn requests_are_answered_again_after_the_death_of_the_leader() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    let mut talks = LIBRARIES.map(|library| Talk::begin(&mut stage, library, &[("poll-ms", "1000")]));
    for talk in &mut talks {
        talk.asker.await_history("answers", PATIENCE, |h| h.acked() >= PHASE).unwrap();
    }
    let leader = stage.cluster.await_leader(None).unwrap();
    let killed = monotonic_ns();
    stage.cluster.kill(leader.id).unwrap();
    for talk in &mut talks {
        talk.asker.await_history("answers after the kill", PATIENCE, |h| h.acked_after(killed) >= PHASE).unwrap();
        let silence = Duration::from_nanos(talk.asker.history().unwrap().longest_silence(killed, monotonic_ns()));
        let answered = talk.responder.history().unwrap();
        let reached = answered.events.iter().find_map(|event| match event {
            Event::Deliver { t, .. } if *t > killed => Some((*t - killed) / 1_000_000),
            _ => None,
        });
        report(&format!(
            "{}: no answer for {} ms after kill -9 of the leader; a request reached its responder after {reached:?} ms; {:?}",
            talk.library.name(),
            silence.as_millis(),
            failures(&answered, killed)
        ));
        assert!(silence < SILENCE_MAX, "{}: no answer for {silence:?}", talk.library.name());
    }
    let recovered = monotonic_ns();
    for talk in &mut talks {
        talk.asker.await_history("more answers", PATIENCE, |h| h.acked_after(recovered) >= PHASE).unwrap();
    }
    for talk in talks {
        let (library, asked, answered) = talk.end();
        // One may have been under way when the last library recovered.
        let since = recovered + 3_000_000_000;
        assert_eq!(failures(&asked, since), Vec::<&Event>::new(), "{}: not answered", library.name());
        assert_eq!(failures(&answered, since), Vec::<&Event>::new(), "{}: refused", library.name());
    }
    stage.cluster.restart(leader.id).unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}
