//! A network of hosts on one machine: a namespace for each node and one for the clients, joined by a bridge. Packets are dropped,
//! lost and delayed inside the nodes' namespaces, by the kernel's own filter.
//!
//! ```text
//! clients, name server, ledgermq dev: 10.86.0.254 ── bridge ─┬─ 10.86.0.1  node 1
//!                                                            ├─ 10.86.0.2  node 2
//!                                                            └─ …
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cluster::{alive, report};
use crate::program;

/// Prefix of the namespaces' names; the number of the process that made them follows.
const PREFIX: &str = "lmq-";

/// Number of the clients' host.
const CLIENTS: u8 = 254;

/// What does not pass at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing, either way.
    Both,
    /// What others send to it: it speaks, and hears nothing.
    Deaf,
    /// What it sends: it hears, and nobody hears it.
    Mute,
}

/// Every way of cutting a node off.
pub const CUTS: [Cut; 3] = [Cut::Both, Cut::Deaf, Cut::Mute];

/// The hosts. They, and all rules, go when this is dropped: drop the processes inside first.
#[derive(Debug)]
pub struct Network {
    nodes: u8,
}

impl Network {
    /// Makes hosts for so many nodes, and moves the calling thread to the clients' host, with all that it starts from now on.
    ///
    /// # Errors
    /// When the machine lacks a tool, or the right to use it.
    pub fn new(nodes: u8) -> Result<Network> {
        program::require_root()?;
        for (tool, package) in [("ip", "iproute2"), ("iptables", "iptables"), ("python3", "python3")] {
            program::require(tool, package)?;
        }
        remove_of_dead_processes()?;
        let network = Network { nodes };
        let clients = name("c");
        ip(&["netns", "add", &clients])?;
        for command in [
            vec!["link", "set", "lo", "up"],
            vec!["link", "add", "bridge", "type", "bridge"],
            vec!["addr", "add", &format!("{}/24", address(CLIENTS)), "dev", "bridge"],
            vec!["link", "set", "bridge", "up"],
        ] {
            ip_in(&clients, &command)?;
        }
        for node in 1..=nodes {
            let (host, port) = (name(&node.to_string()), format!("port{node}"));
            ip(&["netns", "add", &host])?;
            ip_in(&clients, &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip_in(&clients, &["link", "set", &port, "master", "bridge", "up"])?;
            ip_in(&host, &["addr", "add", &format!("{}/24", address(node)), "dev", "eth0"])?;
            ip_in(&host, &["link", "set", "lo", "up"])?;
            ip_in(&host, &["link", "set", "eth0", "up"])?;
        }
        let path = format!("/run/netns/{clients}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot move to the clients' host")?;
        Ok(network)
    }

    /// What `ledgermq dev` is told to put each node on its host.
    pub fn options(&self) -> Vec<String> {
        let node_address = address(1).to_string().replace(".1", ".{node}");
        let under = format!("ip netns exec {}", name("{node}"));
        ["--host", &node_address, "--namesrv-host", &address(CLIENTS).to_string(), "--under", &under]
            .map(str::to_owned)
            .to_vec()
    }

    /// Cuts a node off from other nodes; clients and name server still reach it.
    ///
    /// # Errors
    /// When the filter takes no rule.
    pub fn cut_from_nodes(&self, node: u64, cut: Cut) -> Result<()> {
        self.cut(node, cut, (1..=self.nodes).filter(|other| u64::from(*other) != node))
    }

    /// Cuts a node off from everybody. Nobody is told: no connection is reset.
    ///
    /// # Errors
    /// When the filter takes no rule.
    pub fn cut_from_all(&self, node: u64) -> Result<()> {
        self.cut(node, Cut::Both, (1..=self.nodes).filter(|other| u64::from(*other) != node).chain([CLIENTS]))
    }

    /// Packets are always dropped where they arrive: a sender would notice.
    fn cut(&self, node: u64, cut: Cut, peers: impl Iterator<Item = u8>) -> Result<()> {
        let node = u8::try_from(node).context("a node without a host")?;
        for peer in peers {
            if cut != Cut::Mute {
                rule(node, &["-A", "INPUT", "-s", &address(peer).to_string(), "-j", "DROP"])?;
            }
            if cut != Cut::Deaf {
                rule(peer, &["-A", "INPUT", "-s", &address(node).to_string(), "-j", "DROP"])?;
            }
        }
        Ok(())
    }

    /// Loses this share of all packets that reach a node, at random.
    ///
    /// # Errors
    /// When the filter takes no rule.
    pub fn lose(&self, node: u64, share: f64) -> Result<()> {
        let node = u8::try_from(node).context("a node without a host")?;
        let share = share.to_string();
        let random = ["-m", "statistic", "--mode", "random", "--probability", &share];
        rule(node, &[&["-A", "INPUT", "-i", "eth0"], random.as_slice(), &["-j", "DROP"]].concat())
    }

    /// Delays every packet that reaches a node by `ms` on average, from 0.5 to 1.5 times that, so that they overtake each other.
    /// Until the answer is dropped.
    ///
    /// # Errors
    /// When the filter takes no rule, or the delaying program does not start.
    pub fn delay(&self, node: u64, ms: u32) -> Result<Delay> {
        let node = u8::try_from(node).context("a node without a host")?;
        let host = name(&node.to_string());
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", &host, "python3", "-c", DELAY, &ms.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the delaying program")?;
        let mut delay = Delay { child };
        // It says when it listens: packets that nobody takes are dropped.
        let mut line = [0; 6];
        let mut said = delay.child.stdout.take().context("the delaying program has no output")?;
        std::io::Read::read_exact(&mut said, &mut line).context("the delaying program ended at once")?;
        rule(node, &["-A", "INPUT", "-i", "eth0", "-j", "NFQUEUE", "--queue-num", "0"])?;
        Ok(delay)
    }

    /// Everything passes again, everywhere.
    ///
    /// # Errors
    /// When the filter does not let go of its rules.
    pub fn heal(&self) -> Result<()> {
        (1..=self.nodes).chain([CLIENTS]).try_for_each(|host| rule(host, &["-F"]))
    }
}

/// A rule of the filter of a host.
fn rule(host: u8, words: &[&str]) -> Result<()> {
    let host = if host == CLIENTS { name("c") } else { name(&host.to_string()) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &host, "iptables", "-w"]).args(words);
    program::run(&mut command).map(drop)
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&format!("{PREFIX}{}-", std::process::id()));
    }
}

/// Packets that reach a node come late. Heal the network before this is dropped.
#[derive(Debug)]
pub struct Delay {
    child: Child,
}

impl Drop for Delay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes packets from the kernel's queue 0 and gives each back after its own delay. Spoken over a netlink socket, since no library
/// for it is at hand everywhere (linux/netfilter/nfnetlink_queue.h).
const DELAY: &str = r#"
import heapq, random, select, socket, struct, sys, time
mean = int(sys.argv[1]) / 1000
queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
queue.bind((0, 0))
queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)
def send(message, attributes):
    body = struct.pack("=BBH", 0, 0, 0) + attributes
    queue.send(struct.pack("=IHHII", 16 + len(body), 3 << 8 | message, 1, 0, 0) + body)
send(2, attribute(1, struct.pack(">BBH", 1, 0, 0)))
send(2, attribute(2, struct.pack(">IB", 0, 1)) + attribute(3, struct.pack(">I", 20000)))
print("ready", flush=True)
waiting = []
while True:
    due = waiting[0][0] - time.monotonic() if waiting else 1
    readable, _, _ = select.select([queue], [], [], max(0, due))
    while waiting and waiting[0][0] <= time.monotonic():
        send(1, attribute(2, struct.pack(">II", 1, heapq.heappop(waiting)[1])))
    if not readable:
        continue
    data, at = queue.recv(1 << 16), 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == 3 << 8:
            inner = at + 20
            while inner + 4 <= at + length:
                size, what = struct.unpack_from("=HH", data, inner)
                if what & 0x7FFF == 1:
                    packet = struct.unpack_from(">I", data, inner + 4)[0]
                    heapq.heappush(waiting, (time.monotonic() + mean * random.uniform(0.5, 1.5), packet))
                inner += max(4, size + 3 & ~3)
        at += max(16, length + 3 & ~3)
"#;

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 86, 0, host)
}

fn name(host: &str) -> String {
    format!("{PREFIX}{}-{host}", std::process::id())
}

fn ip(words: &[&str]) -> Result<()> {
    program::run(Command::new("ip").args(words)).map(drop)
}

fn ip_in(host: &str, words: &[&str]) -> Result<()> {
    ip(&[&["-n", host], words].concat())
}

/// Removes the namespaces whose names begin so.
fn remove(prefix: &str) {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix)
            && let Err(error) = ip(&["netns", "delete", &name])
        {
            report(&format!("cannot remove the host {name}: {error:#}"));
        }
    }
}

/// A test that was killed could not remove its hosts; the next one does it.
fn remove_of_dead_processes() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok()) else {
            continue;
        };
        if !alive(pid)? {
            remove(&format!("{PREFIX}{pid}-"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;

    /// Everything the partition drills say rests on this: what is cut does not pass, in that direction alone; what is delayed comes
    /// late; what is healed passes.
    #[test]
    fn hosts_are_cut_deaf_mute_and_slow() {
        const ECHO: &str = r#"
import socket
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    data, peer = echo.recvfrom(100)
    echo.sendto(data, peer)
"#;
        let network = Network::new(2).unwrap();
        let mut echo = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", &name("1"), "python3", "-c", ECHO])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        echo.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let socket = UdpSocket::bind((address(CLIENTS), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let mut sent = 0_u32;
        let mut comes_back = || {
            sent += 1;
            socket.send_to(&sent.to_be_bytes(), (address(1), 7)).unwrap();
            let (begin, mut got) = (Instant::now(), [0; 4]);
            socket.recv(&mut got).is_ok_and(|_| got == sent.to_be_bytes()).then(|| begin.elapsed())
        };
        assert!(comes_back().is_some());
        for cut in CUTS {
            network.cut(1, cut, [CLIENTS].into_iter()).unwrap();
            assert!(comes_back().is_none(), "{cut:?}");
            network.heal().unwrap();
            assert!(comes_back().is_some(), "{cut:?} does not heal");
        }
        network.cut_from_nodes(1, Cut::Both).unwrap();
        assert!(comes_back().is_some(), "clients are no nodes");
        network.heal().unwrap();
        network.lose(1, 1.0).unwrap();
        assert!(comes_back().is_none());
        network.heal().unwrap();
        let delay = network.delay(1, 50).unwrap();
        let took: Vec<Duration> = (0..10).map(|_| comes_back().unwrap()).collect();
        assert!(took.iter().all(|it| (25..=150).contains(&it.as_millis())), "{took:?}");
        network.heal().unwrap();
        drop(delay);
        assert!(comes_back().unwrap() < Duration::from_millis(25));
        assert!(TcpStream::connect_timeout(&(address(1), 9).into(), Duration::from_millis(400)).is_err());
        let _ = std::io::stdout().flush();
        echo.kill().unwrap();
        echo.wait().unwrap();
    }
}
