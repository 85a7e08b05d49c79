//! Input that no honest client sends, at live brokers and the name server, with healthy clients beside it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, NODES, PATIENCE, POLL, alive, report};
use ledgermq_tests::history::Event;
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::program;
use ledgermq_tests::replicas;
use ledgermq_tests::wire::{Answer, Connection, code, frame, frame_of, send_fields};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MESSAGE_MAX: usize = 4 << 20;

/// How a peer may react.
enum Reaction {
    /// The framing is lost: the connection must be closed.
    Closed,
    /// Answered with one of these codes, and a remark that holds this word.
    Refused(&'static [i32], &'static str),
    /// Answered with any error, or closed.
    AnyRefusal,
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    reaction: Reaction,
}

fn case(name: &'static str, bytes: Vec<u8>, reaction: Reaction) -> Case {
    Case { name, bytes, reaction }
}

/// A frame with its length, encoding and header length as given.
fn raw(length: u32, encoding: u8, header_length: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(encoding);
    bytes.extend_from_slice(&header_length.to_be_bytes()[1..]);
    bytes.extend_from_slice(rest);
    bytes
}

/// Bytes that are no frame, or frames without a header: the same for every server.
fn broken_frames() -> Vec<Case> {
    let json = |header: &str| frame_of(header.as_bytes(), b"");
    // A binary header: code, language, version, opaque, flag, then the length of the remark.
    let mut negative = vec![0, 105, 0, 1, 0xED, 0, 0, 0, 1, 0, 0, 0, 0];
    negative.extend_from_slice(&(-5i32).to_be_bytes());
    negative.extend_from_slice(&0i32.to_be_bytes());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        case("length 0", raw(0, 0, 0, b""), Reaction::Closed),
        case("length 3", raw(3, 0, 0, b""), Reaction::Closed),
        case("negative length", raw(u32::MAX, 0, 10, b"0123456789"), Reaction::Closed),
        case("one byte over the frame limit", raw((16 << 20) - 3, 0, 10, b"0123456789"), Reaction::Closed),
        case("header longer than the frame", raw(14, 0, 11, b"0123456789"), Reaction::Closed),
        case("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Reaction::Closed),
        case("half a frame", frame(code::ROUTE, 1, &[], &[7; 100])[..60].to_vec(), Reaction::Closed),
        case("unknown encoding", raw(14, 9, 10, b"0123456789"), Reaction::AnyRefusal),
        case("header that is no JSON", json("not json at all"), Reaction::AnyRefusal),
        case("header that is half a JSON object", json(r#"{"code":105,"opaque":1"#), Reaction::AnyRefusal),
        case(
            "header nested too deep",
            json(&format!(r#"{{"code":105,"opaque":1,"extFields":{deep}}}"#)),
            Reaction::AnyRefusal,
        ),
        case(
            "field that is no text",
            json(r#"{"code":105,"opaque":1,"extFields":{"topic":[1]}}"#),
            Reaction::AnyRefusal,
        ),
        case("code out of range", json(r#"{"code":99999999999,"opaque":1}"#), Reaction::AnyRefusal),
        case(
            "header that is not UTF-8",
            frame_of(b"{\"code\":105,\"opaque\":1,\"remark\":\"\xff\"}", b""),
            Reaction::AnyRefusal,
        ),
        case("empty header", raw(4, 0, 0, b""), Reaction::AnyRefusal),
        case("negative length in a binary header", raw(25, 1, 21, &negative), Reaction::AnyRefusal),
        case("binary header that ends early", raw(9, 1, 5, b"\0\x69\0\x01\xED"), Reaction::AnyRefusal),
        case("unknown code", frame(4711, 1, &[], b""), Reaction::Refused(&[3], "4711")),
        case("known code that is not served", frame(200_051, 1, &[], b""), Reaction::Refused(&[3], "")),
    ]
}

/// Requests in good frames that a broker must refuse by RocketMQ's own codes.
fn refused_requests() -> Vec<Case> {
    let send = |topic: &str, queue: i32, properties: &str, body: &[u8]| {
        frame(code::SEND_V2, 1, &send_fields("tests", topic, queue, properties), body)
    };
    let property = |name: &str, value: &str| format!("{name}\u{1}{value}\u{2}");
    let long = |length: usize| "x".repeat(length);
    let mut no_topic = send_fields("tests", "t", 0, "");
    no_topic.retain(|(name, _)| *name != "b");
    let mut text_queue = send_fields("tests", "t", 0, "");
    text_queue.retain(|(name, _)| *name != "e");
    text_queue.push(("e", "zero".into()));
    let mut bad_group = send_fields("a group/with ../ slashes", "t", 0, "");
    bad_group.push(("l", "0".into()));
    let mut batch = send_fields("tests", "t", 0, "");
    batch.retain(|(name, _)| *name != "m");
    batch.push(("m", "true".into()));
    vec![
        case("body over 4 MiB", send("bad", 0, "", &vec![b'x'; MESSAGE_MAX + 1]), Reaction::Refused(&[13], "")),
        case("properties too long", send("bad", 0, &property("k", &long(32_767)), b"x"), Reaction::Refused(&[13], "")),
        case("topic with a slash", send("../bad", 0, "", b"x"), Reaction::Refused(&[13, 29], "")),
        case("topic with a line feed", send("bad\nname", 0, "", b"x"), Reaction::Refused(&[13, 29], "")),
        case("empty topic", send("", 0, "", b"x"), Reaction::Refused(&[1, 13, 29], "")),
        case("topic too long", send(&long(300), 0, "", b"x"), Reaction::Refused(&[13, 29], "")),
        case("queue out of range", send("TBW102", 1_000_000, "", b"x"), Reaction::Refused(&[16, 29], "")),
        case("no topic", frame(code::SEND_V2, 1, &no_topic, b"x"), Reaction::Refused(&[1, 29], "b")),
        case("queue that is no number", frame(code::SEND_V2, 1, &text_queue, b"x"), Reaction::Refused(&[1, 29], "e")),
        case("bad group", frame(code::SEND_V2, 1, &bad_group, b"x"), Reaction::Refused(&[13, 29], "group")),
        case("delay level", send("bad", 0, &property("DELAY", "three"), b"x"), Reaction::Refused(&[13], "DELAY")),
        case(
            "timer",
            send("bad", 0, &property("TIMER_DELAY_SEC", "9223372036854775807"), b"x"),
            Reaction::Refused(&[13], "delay_max_ms"),
        ),
        case("half message", send("bad", 0, &property("TRAN_MSG", "true"), b"x"), Reaction::Refused(&[13], "")),
        case("batch of garbage", frame(code::SEND_BATCH, 1, &batch, &[0xFF; 64]), Reaction::Refused(&[1, 13, 29], "")),
        case(
            "batch that ends early",
            frame(code::SEND_BATCH, 1, &batch, &[0, 0, 0, 99, 0]),
            Reaction::Refused(&[1, 13, 29], ""),
        ),
        case("heartbeat that is no JSON", frame(code::HEART_BEAT, 1, &[], b"{{{"), Reaction::Refused(&[1, 29], "")),
        case(
            "topic to be created with too many queues",
            frame(
                code::CREATE_TOPIC,
                1,
                &[
                    ("topic", "many".to_owned()),
                    ("defaultTopic", "TBW102".to_owned()),
                    ("readQueueNums", "2000000000".to_owned()),
                    ("writeQueueNums", "2000000000".to_owned()),
                    ("perm", "6".to_owned()),
                    ("topicFilterType", "SINGLE_TAG".to_owned()),
                    ("order", "false".to_owned()),
                ],
                b"",
            ),
            Reaction::Refused(&[1, 29], ""),
        ),
    ]
}

/// Writes the bytes, ends the sending half, and takes what comes back: the first answer, or nothing.
fn provoke(address: &str, bytes: &[u8]) -> Result<Option<Answer>> {
    let mut connection = Connection::open(address)?;
    // The server may close before all is written.
    let _ = connection.stream().write_all(bytes);
    let _ = connection.stream().shutdown(Shutdown::Write);
    connection.read()
}

fn judge(address: &str, case: &Case) -> Result<()> {
    let answer = provoke(address, &case.bytes)?;
    match (&case.reaction, answer) {
        (Reaction::Closed | Reaction::AnyRefusal, None) => Ok(()),
        (Reaction::AnyRefusal, Some(answer)) if answer.code != 0 => Ok(()),
        (Reaction::Refused(codes, word), Some(answer)) if codes.contains(&answer.code) => {
            ensure!(!answer.remark.is_empty(), "code {} without a remark", answer.code);
            ensure!(answer.remark.contains(word), "the remark does not name {word}: {}", answer.remark);
            Ok(())
        }
        (Reaction::Refused(codes, _), None) => bail!("closed, instead of an answer with one of {codes:?}"),
        (_, Some(answer)) => bail!("answered with code {}, {}", answer.code, answer.remark),
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// The healthy clients: none of their sends may fail, and nothing of theirs may be lost.
fn assert_undisturbed(cluster: &mut Cluster, load: Load, topic: &str) -> Result<()> {
    load.await_acked(100)?;
    let history = load::history(cluster, topic, &load.stop()?)?;
    let failed: Vec<&Event> =
        history.events.iter().filter(|e| matches!(e, Event::Fail { .. } | Event::Info { .. })).take(3).collect();
    ensure!(failed.is_empty(), "healthy clients noticed: {failed:?}");
    let result = check(&history, &Expect::default());
    ensure!(result.clean(), "{result}");
    replicas::judge(cluster)
}

fn start(topic: &str, dir: &Path) -> Result<(Cluster, Load, Vec<u32>)> {
    let cluster = Cluster::start()?;
    let plan = Plan { topic: topic.into(), producers: 2, size: 512 };
    let load = Load::start(cluster.namesrv(), dir, &plan)?;
    load.await_acked(50)?;
    let pids = cluster.nodes()?.iter().map(|n| n.pid).collect();
    Ok((cluster, load, pids))
}

/// Would break: one odd client that takes a server down, or gets an answer that its library cannot understand.
#[test]
fn broken_and_refused_requests_are_answered_by_their_codes_or_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, load, pids) = start("healthy", dir.path()).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let follower = cluster.follower().unwrap();
    let servers = [("leader", leader.address()), ("follower", follower.address()), ("namesrv", cluster.namesrv())];
    let mut wrong = Vec::new();
    for (server, address) in servers {
        for case in broken_frames() {
            if let Err(e) = judge(address, &case) {
                wrong.push(format!("{server}, {}: {e:#}", case.name));
            }
        }
    }
    for case in refused_requests() {
        if let Err(e) = judge(leader.address(), &case) {
            wrong.push(format!("leader, {}: {e:#}", case.name));
        }
    }
    // Ports that speak no Remoting: garbage must not hurt them either.
    for port in [&leader.raft, &follower.raft, &leader.http] {
        for case in broken_frames() {
            let mut connection = Connection::open(port).unwrap();
            let _ = connection.stream().write_all(&case.bytes);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(pids.iter().all(|pid| alive(*pid).unwrap()), "a node ended");
    assert_undisturbed(&mut cluster, load, "healthy").unwrap();
}

/// Would break: reading that depends on how the bytes are cut.
#[test]
fn frames_arrive_in_single_bytes_and_by_the_thousand() {
    const FRAMES: i32 = 1_000;
    let cluster = Cluster::start().unwrap();
    let leader = cluster.await_leader(None).unwrap();
    for address in [leader.address(), cluster.namesrv()] {
        let mut connection = Connection::open(address).unwrap();
        for byte in frame(4711, 7, &[], b"body") {
            connection.write(&[byte]).unwrap();
        }
        assert_eq!(connection.answer_to(7).unwrap().code, 3);
        let all: Vec<u8> = (0..FRAMES).flat_map(|n| frame(4711, n, &[], b"")).collect();
        connection.write(&all).unwrap();
        let mut seen: Vec<i32> = (0..FRAMES).map(|_| connection.read().unwrap().unwrap().opaque).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..FRAMES), "{address}: an answer is missing");
    }
}

/// Would break: memory that grows by what clients announce or leave lying, not by what the budget allows.
#[test]
fn memory_stays_bounded_whatever_clients_announce_and_send() {
    const ANNOUNCERS: usize = 1_000;
    const ANNOUNCED_RISE_MAX: u64 = 100 << 20;
    const SENDERS: usize = 40;
    // The budget of request bytes is 64 MiB; each byte is copied once into its stored form, and once to each peer's queue.
    const SENT_RISE_MAX: u64 = 512 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, load, _) = start("beside", dir.path()).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let before = resident(leader.pid).unwrap();
    let mut announcers = Vec::new();
    for _ in 0..ANNOUNCERS {
        let mut connection = Connection::open(leader.address()).unwrap();
        connection.write(&raw((16 << 20) - 4, 0, 100, b"{")).unwrap();
        announcers.push(connection);
    }
    load.await_acked(200).unwrap();
    let rise = resident(leader.pid).unwrap().saturating_sub(before);
    report(&format!("{ANNOUNCERS} connections that announce 16 MiB each: {} MiB more", rise >> 20));
    assert!(rise < ANNOUNCED_RISE_MAX, "{} MiB more for announcements", rise >> 20);
    drop(announcers);

    let address = leader.address().to_owned();
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| {
            let address = address.clone();
            std::thread::spawn(move || -> Result<i32> {
                let body = vec![b'x'; MESSAGE_MAX - 1024];
                let fields = send_fields("tests", "large", (n % 4) as i32, "");
                let mut connection = Connection::open(&address)?;
                connection.stream().set_read_timeout(Some(PATIENCE))?;
                connection.stream().set_write_timeout(Some(PATIENCE))?;
                connection.write(&frame(code::SEND_V2, 1, &fields, &body))?;
                Ok(connection.read()?.context("closed")?.code)
            })
        })
        .collect();
    let mut highest = 0;
    while senders.iter().any(|sender| !sender.is_finished()) {
        highest = highest.max(resident(leader.pid).unwrap());
        std::thread::sleep(POLL);
    }
    let codes: Vec<i32> = senders.into_iter().map(|sender| sender.join().unwrap().unwrap()).collect();
    let rise = highest.saturating_sub(before);
    report(&format!("{SENDERS} bodies of 4 MiB at once: {} MiB more, codes {codes:?}", rise >> 20));
    // Stored, busy, or not available: each is an answer at once.
    assert!(codes.iter().all(|code| [0, 2, 14].contains(code)), "{codes:?}");
    assert!(rise < SENT_RISE_MAX, "{} MiB more for large bodies", rise >> 20);
    let history = load.stop().unwrap();
    let result = check(&load::history(&cluster, "beside", &history).unwrap(), &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a decoder that panics, or a log that grows by a line for each bad frame.
#[test]
fn twenty_thousand_mutated_frames_hurt_nobody() {
    const SEED: u64 = 20_261_124;
    const CONNECTIONS: usize = 1_000;
    const FRAMES: usize = 20;
    const LOG_MAX: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, load, pids) = start("unhurt", dir.path()).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let log_before = cluster.log(leader.id).unwrap().len() as u64;
    let topic = ("topic", "mutants".to_owned());
    let originals = [
        frame(code::SEND_V2, 1, &send_fields("tests", "mutants", 0, "TAGS\u{1}a\u{2}KEYS\u{1}b c\u{2}"), b"body"),
        frame(
            code::PULL,
            2,
            &[("consumerGroup", "g".into()), topic.clone(), ("queueId", "0".into()), ("queueOffset", "0".into())],
            b"",
        ),
        frame(code::ROUTE, 3, std::slice::from_ref(&topic), b""),
        frame(
            code::HEART_BEAT,
            4,
            &[],
            br#"{"clientID":"c","consumerDataSet":[],"producerDataSet":[{"groupName":"g"}]}"#,
        ),
        frame(code::MAX_OFFSET, 5, &[topic, ("queueId", "0".into())], b""),
    ];
    let mut random = StdRng::seed_from_u64(SEED);
    for n in 0..CONNECTIONS {
        let address = if n.is_multiple_of(4) { cluster.namesrv() } else { leader.address() };
        let mut bytes = Vec::new();
        for _ in 0..FRAMES {
            let mut mutant = originals[random.random_range(0..originals.len())].clone();
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..mutant.len());
                match random.random_range(0..3) {
                    0 => mutant[at] ^= 1 << random.random_range(0..8),
                    1 => mutant[at] = random.random(),
                    // The length is kept right, so that the damage reaches the decoders behind it.
                    _ if at >= 8 && mutant.len() > 9 => {
                        mutant.remove(at);
                        let length = mutant.len() as u32 - 4;
                        mutant[..4].copy_from_slice(&length.to_be_bytes());
                    }
                    _ => {}
                }
            }
            bytes.extend_from_slice(&mutant);
        }
        let mut connection = Connection::open(address).unwrap();
        let stream = connection.stream();
        // The server may close at the first bad frame.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let mut answers = Vec::new();
        if let Err(e) = stream.read_to_end(&mut answers) {
            assert!(e.kind() == std::io::ErrorKind::ConnectionReset, "seed {SEED}, connection {n}: {e}");
        }
    }
    assert!(pids.iter().all(|pid| alive(*pid).unwrap()), "seed {SEED}: a node ended");
    let log = cluster.log(leader.id).unwrap().len() as u64 - log_before;
    assert!(log < LOG_MAX, "bad frames wrote {log} bytes of log");
    assert_undisturbed(&mut cluster, load, "unhurt").unwrap();
}

/// Runs a server that must refuse to start, and gives its words.
fn refusal(command: &mut Command) -> Result<String> {
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            bail!("it started: {}", program::words(&child.wait_with_output()?));
        }
        std::thread::sleep(POLL);
    }
    let output: Output = child.wait_with_output()?;
    ensure!(!output.status.success(), "it ended with success: {}", program::words(&output));
    ensure!(output.status.code() != Some(101), "it panicked: {}", program::words(&output));
    let words = program::words(&output);
    // Logs may come before; the reason is one sentence, on the last line.
    let last = words.lines().last().unwrap_or_default();
    last.strip_prefix("error: ")
        .map(str::to_owned)
        .with_context(|| format!("no sentence that begins with error: {words}"))
}

/// Would break: somebody's first evening. What cannot start says in one sentence why, and how to mend it.
#[test]
fn what_must_not_start_says_why_in_one_sentence() {
    let mut cluster = Cluster::start().unwrap();
    let namesrv = cluster.namesrv().to_owned();
    let nodes = cluster.nodes().unwrap();
    cluster.stop().unwrap();
    let ledgermq = program::ledgermq().unwrap();
    let config = std::fs::read_to_string(cluster.dir().join("node-1/broker.toml")).unwrap();
    let node = &nodes[0];
    let broker = |name: &str, text: &str| {
        let path = cluster.dir().join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        let words = refusal(Command::new(&ledgermq).args(["broker", "-c"]).arg(&path));
        let words = words.with_context(|| name.to_owned()).unwrap();
        report(&format!("{name}: {words}"));
        words.to_lowercase()
    };

    let held = TcpListener::bind(node.address()).unwrap();
    let words = broker("taken-port", &config);
    assert!(words.contains(node.address()) && words.contains("listen"), "{words}");
    drop(held);

    let words = broker("unknown-key", &format!("no_such_key = 1\n{config}"));
    assert!(words.contains("no_such_key"), "{words}");

    let raft = format!("raft_listen = \"{}\"", node.raft);
    assert!(config.contains(&raft), "{config}");
    let words = broker("not-loopback", &config.replace(&raft, "raft_listen = \"0.0.0.0:1\""));
    assert!(words.contains("insecure"), "{words}");

    let own = node.data_dir.display().to_string();
    let others = nodes[1].data_dir.display().to_string();
    assert!(config.contains(&own), "{config}");
    let words = broker("data-of-another-node", &config.replace(&own, &others));
    assert!(words.contains(&others.to_lowercase()), "{words}");

    let line = config.lines().find(|line| line.starts_with("cluster_id")).unwrap();
    let other = "cluster_id = \"00000000-0000-4000-8000-000000000001\"";
    let words = broker("data-of-another-cluster", &config.replace(line, other));
    assert!(words.contains("cluster") && words.contains(&own.to_lowercase()), "{words}");

    let empty = cluster.dir().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let words = broker("wiped-data", &config.replace(&own, &empty.display().to_string()));
    assert!(words.contains(&empty.display().to_string().to_lowercase()), "{words}");

    let held = TcpListener::bind(&namesrv).unwrap();
    let words = refusal(Command::new(&ledgermq).args(["namesrv", "--listen", &namesrv])).unwrap();
    report(&format!("namesrv, taken port: {words}"));
    assert!(words.contains(&namesrv), "{words}");
    drop(held);
    let words = refusal(Command::new(&ledgermq).args(["namesrv", "--listen", "0.0.0.0:1"])).unwrap();
    report(&format!("namesrv, not loopback: {words}"));
    assert!(words.contains("insecure"), "{words}");
    assert_eq!(nodes.len() as u64, NODES);
}
