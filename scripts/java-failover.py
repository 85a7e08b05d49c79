#!/usr/bin/env python3
"""How long the official Java client is without an acknowledgement when the leader of its queues is killed with SIGKILL.

    scripts/java-failover.py --ledgermq PROGRAM [--groups N]      a cluster of `ledgermq dev`
    scripts/java-failover.py --rocketmq SCRIPT                    Apache RocketMQ in DLedger mode, through a script that knows
                                                                  start DIR PORT | pids DIR | start-broker DIR I | stop DIR
    --mode pinned    one thread a queue, which sends to that queue alone; the slowest queue that the killed node led counts
    --mode sync      --threads senders with the client's own choice of queue and its own retries; calls that fail are counted
    --poll-ms N      the client's interval between route polls (1000; the client's default is 30000)
    --kills N        kills, one after the other, each after all nodes serve again (20)
    --calm S         seconds between (3)
    --json FILE      the figures, as data

Both systems are driven by the same program (tests/java) and judged by the same code. Prints silences and failed calls.
"""
import argparse
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
PATIENCE_S = 120
QUEUES = 8


def request(address, code, fields):
    """One Remoting request; returns answer code and body."""
    header = json.dumps({"code": code, "language": "OTHER", "version": 0, "opaque": 1, "flag": 0, "extFields": fields}).encode()
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=3) as sock:
        sock.sendall(struct.pack(">II", 4 + len(header), len(header)) + header)
        stream = sock.makefile("rb")
        length, = struct.unpack(">I", stream.read(4))
        head_len = struct.unpack(">I", stream.read(4))[0] & 0xFFFFFF
        head = json.loads(stream.read(head_len))
        return head["code"], stream.read(length - 4 - head_len)


def leaders(namesrv, topic):
    """Broker name -> address that the name server calls id 0."""
    code, body = request(namesrv, 105, {"topic": topic})
    if code != 0:
        return {}
    text = re.sub(r"([{,])(\d+):", r'\1"\2":', body.decode())
    return {b["brokerName"]: b["brokerAddrs"]["0"] for b in json.loads(text)["brokerDatas"] if "0" in b["brokerAddrs"]}


def until(what, check, patience=PATIENCE_S):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            found = check()
            if found:
                return found
        except (OSError, struct.error, KeyError, ValueError):
            pass
        time.sleep(0.1)
    sys.exit(f"java-failover: {what} did not happen within {patience} s")


class LedgerMq:
    def __init__(self, program, groups, folder, port):
        self.program, self.folder, self.namesrv = program, folder, f"127.0.0.1:{port}"
        log = open(folder / "dev.log", "wb")
        self.dev = subprocess.Popen(
            [program, "dev", "--dir", folder / "cluster", "--groups", str(groups), "--base-port", str(port)], stdout=log, stderr=log
        )
        self.groups = groups

    def nodes(self):
        return json.loads((self.folder / "cluster" / "cluster.json").read_text())["nodes"]

    def node_of(self, address):
        return next(n["id"] for n in self.nodes() if address in n["groups"].values())

    def kill(self, node):
        os.kill(next(n["pid"] for n in self.nodes() if n["id"] == node), signal.SIGKILL)

    def restart(self, node):
        subprocess.run(
            [self.program, "dev", "restart-node", "--dir", self.folder / "cluster", str(node)], check=True, stdout=subprocess.DEVNULL
        )

    def stop(self):
        self.dev.send_signal(signal.SIGINT)
        self.dev.wait(60)


class RocketMq:
    groups = 1

    def __init__(self, script, folder, port):
        self.script, self.folder, self.port, self.namesrv = script, folder, port, f"127.0.0.1:{port}"
        subprocess.run([script, "start", folder / "cluster", str(port)], check=True)

    def node_of(self, address):
        return (int(address.rsplit(":", 1)[1]) - self.port - 100) // 10

    def kill(self, node):
        pids = subprocess.run([self.script, "pids", self.folder / "cluster"], check=True, capture_output=True, text=True).stdout
        os.kill(int(pids.strip().split(",")[node]), signal.SIGKILL)

    def restart(self, node):
        subprocess.run([self.script, "start-broker", self.folder / "cluster", str(node)], check=True)

    def stop(self):
        subprocess.run([self.script, "stop", self.folder / "cluster"], check=True)


class Observer:
    """The Java program, and when each of its queues was acknowledged."""

    def __init__(self, build, folder, name, options):
        command = ["java", "-Xmx160m", "-XX:+UseSerialGC", f"-Drocketmq.log.root={folder}", f"-Drocketmq.client.logRoot={folder}"]
        command += ["-cp", f"{build}/classes:{build}/lib/*", "io.ledgermq.peer.Produce"]
        options = {"process": name, "group": "java-failover", **options}
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self.acknowledged, self.failures, self.oks = {}, [], 0
        self.java = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.java.stdout:
            event = json.loads(line)
            if event["type"] == "ok":
                self.oks += 1
                self.acknowledged.setdefault(event["queue"], []).append(event["t"])
            elif event["type"] in ("info", "fail"):
                self.failures.append((event["t"], event["error"]))

    def stop(self):
        self.java.stdin.close()
        self.reader.join()
        self.java.wait()


def silence_ms(times, killed_ns, end_ns):
    """Longest gap between acknowledgements that ends after the kill and begins before `end_ns`."""
    gaps = [b - a for a, b in zip(times, times[1:]) if b > killed_ns and a < end_ns]
    return max(gaps, default=0) / 1e6


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ledgermq")
    options.add_argument("--rocketmq")
    options.add_argument("--groups", type=int, default=1)
    options.add_argument("--mode", choices=["pinned", "sync"], default="pinned")
    options.add_argument("--threads", type=int, default=4)
    options.add_argument("--poll-ms", type=int, default=1000)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--calm", type=float, default=3)
    options.add_argument("--base-port", type=int, default=38000)
    options.add_argument("--json")
    args = options.parse_args()
    if (args.ledgermq is None) == (args.rocketmq is None):
        options.error("give --ledgermq or --rocketmq")
    target = os.environ.get("CARGO_TARGET_DIR", str(pathlib.Path.home() / ".cache/ledgermq/target"))
    build = f"{target}/java-failover"
    subprocess.run(
        ["mvn", "--batch-mode", "--quiet", "--file", REPO / "tests/java/pom.xml", "-Dclient.version=5.4.0", f"-Dpeers.build={build}",
         "process-classes"], check=True
    )
    with tempfile.TemporaryDirectory(prefix="java-failover.") as scratch:
        scratch = pathlib.Path(scratch)
        # A driver that is told to stop takes its servers with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("java-failover: stopped"))
        system = LedgerMq(args.ledgermq, args.groups, scratch, args.base_port) if args.ledgermq else RocketMq(args.rocketmq, scratch, args.base_port)
        try:
            run(args, system, build, scratch)
        finally:
            system.stop()


def run(args, system, build, scratch):
    topic = "failover"
    all_lead = lambda: len(leaders(system.namesrv, "TBW102")) == system.groups and leaders(system.namesrv, "TBW102")
    brokers = until("a leader for every group", all_lead)
    settings = {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6,
                "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False}
    for name in brokers:
        until(f"the topic on {name}", lambda n=name: request(leaders(system.namesrv, "TBW102")[n], 17, {k: str(v) for k, v in settings.items()})[0] == 0)
    until("the topic's route", lambda: len(leaders(system.namesrv, topic)) == system.groups)
    common = {"namesrv": system.namesrv, "topic": topic, "poll-ms": args.poll_ms, "size": 1024, "mode": args.mode, "pause-ms": 20}
    count = 1 if args.mode == "pinned" else args.threads
    if args.mode == "sync":
        common["retries"] = 2  # The client's default.
    observers = [Observer(build, scratch, f"observer-{n}", common) for n in range(count)]
    try:
        kills = kill_leaders(args, system, topic, sorted(brokers), observers)
    finally:
        for observer in observers:
            observer.stop()
    report(args, system, kills, observers)


def kill_leaders(args, system, topic, victim_name, observers):
    until("the first acknowledgement", lambda: all(o.oks > 100 for o in observers))
    # Apache RocketMQ's followers copy topics every ten seconds; a topic that only the leader knows dies with it.
    time.sleep(args.calm if args.ledgermq else 30)
    kills = []
    for n in range(args.kills):
        name = victim_name[n % len(victim_name)]
        now = until("a leader of every group", lambda: len(leaders(system.namesrv, topic)) == system.groups and leaders(system.namesrv, topic))
        node = system.node_of(now[name])
        led = [b for b in sorted(now) if system.node_of(now[b]) == node]
        before = [(q, len(o.acknowledged[q])) for o in observers for q in o.acknowledged]
        at = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        system.kill(node)
        # Every queue of the observers is heard again, or in the other mode: every observer is.
        if args.mode == "pinned":
            until("an acknowledgement of every queue", lambda: all(o.acknowledged[q][-1] > at + 1e6 and len(o.acknowledged[q]) > c + 2 for o in observers for q, c in before))
        else:
            time.sleep(args.calm)
        system.restart(node)
        until("the killed node", lambda: len(leaders(system.namesrv, topic)) == system.groups)
        # Before the calm: the silence of the next kill begins where it ends.
        end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        # A random part, so that kills do not keep in step with the client's polls.
        time.sleep((args.calm if args.ledgermq else max(args.calm, 10)) + random.random())
        kills.append({"at": at, "node": node, "led": led, "end": end})
        told = f", silence {longest_silence_ms(kills[-1], observers):.0f} ms" if args.mode == "pinned" else ""
        print(f"kill {n + 1} of {args.kills}: node {node}, which led {', '.join(led)}{told}", file=sys.stderr, flush=True)
    return kills


def longest_silence_ms(kill, observers):
    """Of the slowest queue that the killed node led."""
    number = lambda broker: 1000 * (ord(broker[-1]) - ord("a"))  # As tests/java numbers queues.
    own = {number(broker) + queue for broker in kill["led"] for queue in range(QUEUES)}
    found = [silence_ms(list(times), kill["at"], kill["end"]) for o in observers for queue, times in o.acknowledged.items() if queue in own]
    return max(found, default=0)


def report(args, system, kills, observers):
    silences = [longest_silence_ms(kill, observers) for kill in kills]
    failed = sum(len(o.failures) for o in observers)
    figures = {
        "system": "LedgerMQ" if args.ledgermq else "RocketMQ", "groups": system.groups, "mode": args.mode, "poll_ms": args.poll_ms, "kills": len(kills),
        "acknowledged": sum(o.oks for o in observers), "failed_calls": failed,
        "silence_ms": {"median": statistics.median(silences), "worst": max(silences), "all": [round(s) for s in silences]},
        "first_errors": [e for o in observers for _, e in o.failures][:3],
    }
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=1))
    print(f"{figures['system']}, {system.groups} group(s), {args.mode}, route poll {args.poll_ms} ms, {len(kills)} kills: "
          + (f"silence of the slowest queue that the killed node led: median {figures['silence_ms']['median']:.0f} ms, worst {figures['silence_ms']['worst']:.0f} ms; " if args.mode == "pinned" else "")
          + f"{figures['acknowledged']:,} acknowledged, {failed:,} calls failed")
    if args.mode == "pinned":
        print("each, in ms: " + " ".join(map(str, figures["silence_ms"]["all"])))
    for error in figures["first_errors"]:
        print("failed: " + error[:200])


main()
