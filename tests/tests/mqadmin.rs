//! RocketMQ's `mqadmin` against a cluster of real processes, by the values that it prints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use ledgermq_tests::cluster::{Cluster, GROUP, NODES};
use ledgermq_tests::mqadmin::{Mqadmin, rows, value};

const CLUSTER: &str = "DefaultCluster";

fn start(dir: &Path) -> (Cluster, Mqadmin) {
    let cluster = Cluster::start().unwrap();
    cluster.await_leader(None).unwrap();
    let mqadmin = Mqadmin::start(cluster.namesrv(), dir).unwrap();
    (cluster, mqadmin)
}

/// Creates a topic of four queues and waits until it can be sent to.
fn create(mqadmin: &mut Mqadmin, topic: &str) -> String {
    let printed = mqadmin.run(&["updateTopic", "-c", CLUSTER, "-t", topic, "-r", "4", "-w", "4"]).unwrap();
    mqadmin.run_until(&["topicRoute", "-t", topic], "routable", |printed| printed.contains(GROUP)).unwrap();
    printed
}

/// Sends a message to queue 2 and returns its unique id.
fn send(mqadmin: &mut Mqadmin, topic: &str, body: &str) -> String {
    let words = ["sendMessage", "-t", topic, "-p", body, "-b", GROUP, "-i", "2", "-k", "key-1", "-c", "tag-a"];
    let printed = mqadmin.run(&words).unwrap();
    let [row] = &rows(&printed, GROUP)[..] else { panic!("{printed}") };
    assert_eq!(row[1..3], ["2", "SEND_OK"], "{printed}");
    row[3].to_owned()
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// Would break: operators' everyday tools. A topic is made, used, looked at from every side and deleted with RocketMQ's own.
#[test]
fn a_cluster_its_topics_and_messages_as_mqadmin_prints_them() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut mqadmin) = start(dir.path());
    let leader = cluster.leader().unwrap().address().to_owned();
    let topic = "mqadmin-topic";

    let printed = create(&mut mqadmin, topic);
    assert!(printed.contains(&format!("create topic to {leader} success.")), "{printed}");
    let config = format!("TopicConfig [topicName={topic}, readQueueNums=4, writeQueueNums=4, perm=RW-");
    assert!(printed.contains(&config), "{printed}");
    let printed = mqadmin.run(&["topicList"]).unwrap();
    assert!(printed.lines().any(|line| line == topic) && printed.lines().any(|line| line == "TBW102"), "{printed}");
    let printed = mqadmin.run(&["topicRoute", "-t", topic]).unwrap();
    let route: String = printed.split_whitespace().collect();
    for part in [
        format!("\"brokerName\":\"{GROUP}\""),
        format!("0:\"{leader}\"").replace("0:", "\"brokerAddrs\":{0:"),
        "\"perm\":6,\"readQueueNums\":4,\"topicSysFlag\":0,\"writeQueueNums\":4".to_owned(),
    ] {
        assert!(route.contains(&part), "{part} in {route}");
    }

    let bodies = ["first words", "second words", "third words"];
    let ids = bodies.map(|body| send(&mut mqadmin, topic, body));
    messages(&mut mqadmin, topic, &ids, &bodies);
    figures(&cluster, &mut mqadmin, topic, &leader);

    let printed = mqadmin.run(&["deleteTopic", "-c", CLUSTER, "-t", topic]).unwrap();
    for place in [format!("cluster [{CLUSTER}]"), "NameServer".to_owned()] {
        assert!(printed.contains(&format!("delete topic [{topic}] from {place} success.")), "{printed}");
    }
    let printed = mqadmin.run(&["topicList"]).unwrap();
    assert!(!printed.contains(topic), "{printed}");
    let printed = mqadmin.print(&["topicStatus", "-t", topic]).unwrap();
    assert!(printed.contains("No topic route info in name server for the topic"), "{printed}");
    // Made again it is empty, and what it was told by its id stands in the log all the same.
    create(&mut mqadmin, topic);
    let printed = mqadmin.run(&["topicStatus", "-t", topic]).unwrap();
    assert_eq!(rows(&printed, GROUP)[2], [GROUP, "2", "0", "0"], "{printed}");
}

/// Messages by offset, by id, printed one by one, and consumed.
fn messages(mqadmin: &mut Mqadmin, topic: &str, ids: &[String; 3], bodies: &[&str; 3]) {
    let printed = mqadmin.run(&["topicStatus", "-t", topic]).unwrap();
    let queues = rows(&printed, GROUP);
    assert_eq!(queues.len(), 4, "{printed}");
    assert_eq!(queues[0], [GROUP, "0", "0", "0"], "{printed}");
    assert_eq!(queues[2][..4], [GROUP, "2", "0", "3"], "{printed}");
    assert_eq!(queues[2].len(), 6, "a date and a time: {printed}");
    // It adds up what brokers say of queues, but not their rates.
    assert_eq!(value(&printed, "Topic Put TPS"), Some("0.0"), "{printed}");

    let by_offset = ["queryMsgByOffset", "-t", topic, "-b", GROUP, "-i", "2", "-o", "1", "-f", "UTF-8"];
    let printed = mqadmin.run(&by_offset).unwrap();
    let offset_id = value(&printed, "OffsetID").unwrap().to_owned();
    for (name, expected) in [
        ("Topic", topic),
        ("Tags", "[tag-a]"),
        ("Keys", "[key-1]"),
        ("Queue ID", "2"),
        ("Queue Offset", "1"),
        ("Reconsume Times", "0"),
        ("Message Body", bodies[1]),
    ] {
        assert_eq!(value(&printed, name), Some(expected), "{name}: {printed}");
    }
    assert!(value(&printed, "Properties").unwrap().contains(&ids[1]), "{printed}");
    assert!(printed.contains("WARN: No Consumer"), "{printed}");
    let by_id = mqadmin.run(&["queryMsgById", "-t", topic, "-i", &offset_id, "-f", "UTF-8"]).unwrap();
    for name in ["OffsetID", "Queue Offset", "CommitLog Offset", "Store Timestamp", "Store Host", "Message Body"] {
        assert_eq!(value(&by_id, name), value(&printed, name), "{name}: {by_id}");
    }

    let by_key = mqadmin.run(&["queryMsgByKey", "-t", topic, "-k", "key-1"]).unwrap();
    for (offset, id) in ["0", "1", "2"].iter().zip(ids) {
        let [row] = &rows(&by_key, id)[..] else { panic!("{by_key}") };
        assert_eq!(row[..3], [id.as_str(), "2", *offset], "{by_key}");
    }
    let by_unique_key = mqadmin.run(&["queryMsgByUniqueKey", "-t", topic, "-i", &ids[1]]).unwrap();
    for name in ["Topic", "Tags", "Keys", "Queue ID", "Queue Offset", "CommitLog Offset", "Store Timestamp"] {
        assert_eq!(value(&by_unique_key, name), value(&printed, name), "{name}: {by_unique_key}");
    }

    let printed = mqadmin.run(&["printMsg", "-t", topic]).unwrap();
    let queue = format!("minOffset=0, maxOffset=3, MessageQueue [topic={topic}, brokerName={GROUP}, queueId=2]");
    assert!(printed.contains(&queue), "{printed}");
    let consumed = mqadmin.run(&["consumeMessage", "-t", topic, "-b", GROUP, "-i", "2"]).unwrap();
    assert!(consumed.contains("Consume ok") && consumed.contains("status=NO_NEW_MSG, offset=3"), "{consumed}");
    for (id, body) in ids.iter().zip(bodies) {
        for printed in [&printed, &consumed] {
            let line = printed.lines().find(|line| line.starts_with(&format!("MSGID: {id} ")));
            assert!(line.is_some_and(|line| line.ends_with(&format!("BODY: {body}"))), "{id}: {printed}");
        }
    }
}

/// What the broker counts, when three messages were stored and each was handed out three times.
fn figures(cluster: &Cluster, mqadmin: &mut Mqadmin, topic: &str, leader: &str) {
    let printed = mqadmin.run(&["clusterList"]).unwrap();
    let members = rows(&printed, CLUSTER);
    assert_eq!(members.len() as u64, NODES, "{printed}");
    let mut addresses: Vec<String> = members.iter().map(|row| row[3].to_owned()).collect();
    let mut expected: Vec<String> = cluster.nodes().unwrap().iter().map(|node| node.address().to_owned()).collect();
    addresses.sort();
    expected.sort();
    assert_eq!(addresses, expected, "{printed}");
    for row in &members {
        assert_eq!((row[1], row[2] == "0"), (GROUP, row[3] == leader), "{printed}");
        assert_eq!((row[4], row[row.len() - 1]), ("LedgerMQ", "true"), "{printed}");
        let (hours, space) = (number(row[row.len() - 3]), number(row[row.len() - 2]));
        assert!((0.0..1.0).contains(&hours) && space > 0.0 && space < 1.0, "{printed}");
    }

    let printed = mqadmin.run(&["brokerStatus", "-b", leader]).unwrap();
    assert_eq!(value(&printed, "msgPutTotalTodayNow"), Some("3"), "{printed}");
    assert_eq!(value(&printed, "brokerActive"), Some("true"), "{printed}");
    assert_eq!(value(&printed, "ledgermq.role"), Some("leader"), "{printed}");
    let rates: Vec<f64> = value(&printed, "putTps").unwrap().split(' ').map(number).collect();
    assert!(rates.len() == 3 && rates[2] > 0.0, "over ten minutes: {printed}");
    // Once by queryMsgByOffset; three by printMsg, three by consumeMessage.
    assert_eq!(value(&printed, "msgGetTotalTodayNow"), Some("7"), "{printed}");

    let printed = mqadmin.run(&["statsAll", "-t", topic]).unwrap();
    let [row] = &rows(&printed, topic)[..] else { panic!("{printed}") };
    assert_eq!((row[1], row[3], row[4]), ("0", "3", "NO_CONSUMER"), "{printed}");
    assert!(number(row[2]) > 0.0, "{printed}");
}

/// Would break: knowing who consumes what, and how far behind. A group is made, runs, and stops.
#[test]
fn groups_and_clients_as_mqadmin_prints_them() {
    const COUNT: &str = "20";
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut mqadmin) = start(dir.path());
    let leader = cluster.leader().unwrap().address().to_owned();
    let (topic, group) = ("mqadmin-consumed", "mqadmin-group");
    create(&mut mqadmin, topic);
    let printed = mqadmin.run(&["updateSubGroup", "-c", CLUSTER, "-g", group, "-r", "7"]).unwrap();
    assert!(printed.contains(&format!("create subscription group to {leader} success.")), "{printed}");
    assert!(printed.contains(&format!("groupName={group}")) && printed.contains("retryMaxTimes=7"), "{printed}");

    let producer = mqadmin.run(&["@produce", "mqadmin-producers", topic, COUNT]).unwrap();
    let consumer = mqadmin.run(&["@consume", group, topic]).unwrap();
    // A producer says who it is a second after its start.
    let words = ["producerConnection", "-g", "mqadmin-producers", "-t", topic];
    let printed = mqadmin.run_until(&words, "connected", |printed| printed.contains("0001")).unwrap();
    let [row] = &rows(&printed, "0001")[..] else { panic!("{printed}") };
    assert_eq!((row[1], row[3], row[4]), (producer.trim(), "JAVA", "V5_4_0"), "{printed}");
    assert!(row[2].starts_with("127.0.0.1:"), "{printed}");
    let printed = mqadmin.run(&["consumerConnection", "-g", group]).unwrap();
    let [row] = &rows(&printed, consumer.trim())[..] else { panic!("{printed}") };
    assert_eq!((row[2], row[3]), ("JAVA", "V5_4_0"), "{printed}");
    assert_eq!(rows(&printed, topic), [[topic, "*"]], "{printed}");
    assert_eq!(rows(&printed, &format!("%RETRY%{group}")).len(), 1, "{printed}");
    assert_eq!(value(&printed, "ConsumeType"), Some("CONSUME_PASSIVELY"), "{printed}");
    assert_eq!(value(&printed, "MessageModel"), Some("CLUSTERING"), "{printed}");
    assert_eq!(value(&printed, "ConsumeFromWhere"), Some("CONSUME_FROM_FIRST_OFFSET"), "{printed}");

    let progress = ["consumerProgress", "-g", group];
    let consumed = |printed: &str| {
        let queues = rows(printed, topic);
        let sum = |column: usize| queues.iter().map(|row| number(row[column])).sum::<f64>();
        queues.len() == 4 && (sum(3), sum(4)) == (number(COUNT), number(COUNT))
    };
    let printed = mqadmin.run_until(&progress, "consumed", consumed).unwrap();
    assert_eq!(value(&printed, "Consume Diff Total"), Some("0"), "{printed}");
    assert!(rows(&printed, topic).iter().all(|row| row[1] == GROUP && row[5] == "0" && row.len() == 9), "{printed}");
    assert!(number(value(&printed, "Consume TPS").unwrap()) > 0.0, "{printed}");
    let printed = mqadmin.run(&["consumerProgress"]).unwrap();
    let [row] = &rows(&printed, group)[..] else { panic!("{printed}") };
    assert_eq!(row[1..5], ["1", "V5_4_0", "PUSH", "CLUSTERING"], "{printed}");
    assert_eq!(row[6], "0", "{printed}");
    let printed = mqadmin.run(&["statsAll", "-t", topic]).unwrap();
    let [row] = &rows(&printed, topic)[..] else { panic!("{printed}") };
    assert_eq!((row[1], row[2], row[5], row[6]), (group, "0", COUNT, COUNT), "{printed}");
    assert!(number(row[3]) > 0.0 && number(row[4]) > 0.0, "{printed}");
    let first = (0..4).find_map(|queue| {
        let words = ["queryMsgByOffset", "-t", topic, "-b", GROUP, "-i", &queue.to_string(), "-o", "0"];
        Some(mqadmin.run(&words).unwrap()).filter(|printed| !printed.is_empty())
    });
    let printed = first.unwrap();
    let track = format!("MessageTrack [consumerGroup={group}, trackType=CONSUMED, exceptionDesc=null]");
    assert!(printed.contains(&track), "{printed}");

    asked_directly(&mut mqadmin, topic, group, consumer.trim(), value(&printed, "OffsetID").unwrap());

    // Stopped: nobody is connected, and what it consumed is still known.
    mqadmin.run(&["@stop"]).unwrap();
    let printed = mqadmin.print(&["consumerConnection", "-g", group]).unwrap();
    assert!(printed.contains("CODE: 206"), "{printed}");
    assert!(consumed(&mqadmin.run(&progress).unwrap()));
    offsets_by_hand(&mut mqadmin, topic, group, &leader);
    // Its retry topic is deleted at every member: followers pass that on.
    let printed = mqadmin.run(&["deleteSubGroup", "-c", CLUSTER, "-g", group, "-r", "true"]).unwrap();
    let deleted = format!("delete subscription group [{group}] from broker [{leader}] in cluster [{CLUSTER}] success.");
    assert!(printed.contains(&deleted), "{printed}");
    let printed = mqadmin.run(&["topicList"]).unwrap();
    assert!(!printed.contains(group) && printed.contains(topic), "{printed}");
}

/// A consumer that is asked over its own connection, through the broker: what it holds, and to consume one message once more.
fn asked_directly(mqadmin: &mut Mqadmin, topic: &str, group: &str, client_id: &str, offset_id: &str) {
    // What it prints names settings that have "Exception" in their names.
    let printed = mqadmin.print(&["consumerStatus", "-g", group, "-i", client_id]).unwrap();
    for part in ["#Consumer Properties#", "#Consumer Subscription#", "#Consumer Offset#", "#Consumer MQ Detail#"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert_eq!(value(&printed, "PROP_CONSUME_TYPE"), Some("CONSUME_PASSIVELY"), "{printed}");
    assert!(rows(&printed, topic).len() >= 4, "its queues: {printed}");
    let printed = mqadmin.print(&["consumerStatus", "-g", group, "-i", client_id, "-s"]).unwrap();
    assert!(printed.contains("#Consumer jstack#") && printed.contains("ConsumeMessageThread"), "{printed}");
    let printed = mqadmin.print(&["consumerStatus", "-g", group, "-i", "nobody"]).unwrap();
    assert!(printed.contains("not online"), "{printed}");
    let directly = ["queryMsgById", "-t", topic, "-i", offset_id, "-g", group, "-d", client_id];
    let printed = mqadmin.run(&directly).unwrap();
    assert!(printed.contains("consumeResult=CR_SUCCESS"), "{printed}");
}

/// Offsets of a group that does not run: one queue put elsewhere, all of them cloned, all of them skipped.
fn offsets_by_hand(mqadmin: &mut Mqadmin, topic: &str, group: &str, leader: &str) {
    let one_queue = ["resetOffsetByTime", "-g", group, "-t", topic, "-s", "now", "-b", leader, "-q", "1", "-o", "2"];
    let printed = mqadmin.run(&one_queue).unwrap();
    assert!(printed.contains("reset consumer offset to 2"), "{printed}");
    let progress = ["consumerProgress", "-g", group];
    let offsets = |printed: &str| -> Vec<(String, String)> {
        rows(printed, topic).iter().map(|row| (row[2].to_owned(), row[4].to_owned())).collect()
    };
    let printed = mqadmin.run(&progress).unwrap();
    let all = offsets(&printed);
    assert!(all.contains(&("1".to_owned(), "2".to_owned())), "{printed}");
    let clone = "mqadmin-clone";
    mqadmin.run(&["updateSubGroup", "-c", CLUSTER, "-g", clone]).unwrap();
    let printed = mqadmin.run(&["cloneGroupOffset", "-s", group, "-d", clone, "-t", topic]).unwrap();
    assert!(printed.contains("clone group offset success"), "{printed}");
    let printed = mqadmin.run(&["skipAccumulatedMessage", "-g", group, "-t", topic]).unwrap();
    let skipped: f64 = rows(&printed, GROUP).iter().map(|row| number(row[2])).sum();
    assert_eq!(skipped, 20.0, "{printed}");
    let printed = mqadmin.run(&progress).unwrap();
    assert_eq!(value(&printed, "Consume Diff Total"), Some("0"), "{printed}");
}

/// Would break: traces. A client that writes them finds their topic, and a tool finds them by the id of the message.
#[test]
fn a_message_trace_is_stored_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, mut mqadmin) = start(dir.path());
    let (topic, group) = ("mqadmin-traced", "mqadmin-tracers");
    create(&mut mqadmin, topic);
    let printed = mqadmin.run(&["topicRoute", "-t", "RMQ_SYS_TRACE_TOPIC"]).unwrap();
    assert!(printed.contains(GROUP), "{printed}");
    let id = mqadmin.run(&["@trace", group, topic]).unwrap().trim().to_owned();
    let by_id = ["queryMsgTraceById", "-i", id.as_str()];
    let printed = mqadmin.run_until(&by_id, "stored", |printed| printed.contains(group)).unwrap();
    let [row] = &rows(&printed, "Pub")[..] else { panic!("{printed}") };
    assert_eq!((row[1], row[row.len() - 1]), (group, "success"), "{printed}");
}
