//! One replica as a process of its own; the one that leads makes the load, as its parent asks by lines on standard input.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledgermq_dledger::fs::OsFs;
use ledgermq_dledger::group::GroupTuning;
use ledgermq_dledger::{GroupHandle, GroupId, GroupSetup, MemberAddress, Node, NodeConfig, Outcome, Proposal};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Result;
use crate::plain::{Answers, Nothing, Plain};

/// Runs until standard input ends. Arguments: Raft id, folder, cluster, group, addresses of all members.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [raft_id, dir, cluster_id, group, addresses] = arguments else {
        return Err("a replica is started by the benchmark alone".into());
    };
    let raft_id: u64 = raft_id.parse()?;
    let members: Vec<MemberAddress> = (1..)
        .zip(addresses.split(','))
        .map(|(raft_id, address)| MemberAddress { raft_id, peer: address.to_owned(), client: address.to_owned() })
        .collect();
    let listen = members[raft_id as usize - 1].peer.parse()?;
    let tuning = GroupTuning { first_campaign_ticks: (raft_id == 1).then_some(2..4), ..GroupTuning::default() };
    let (cluster_id, group) = (cluster_id.parse()?, GroupId(group.parse()?));
    let setup = GroupSetup {
        group,
        dir: dir.into(),
        members,
        tuning,
        completions: Box::new(Answers),
        layer: Box::new(|_, _| Ok((Plain, Nothing::default()))),
    };
    let config = NodeConfig { cluster_id, listen, peer_tls: None, fs: Arc::new(OsFs), scrub: None, boot_id: None };
    let (node, mut handles) = Node::start(config, vec![setup])?;
    let handle = handles.remove(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
    runtime.block_on(async {
        let mut role = handle.watch_role();
        let known = role.wait_for(|role| role.serves() || role.leader.is_some_and(|leader| leader != raft_id));
        let leads = known.await?.serves();
        println!("{}", if leads { "leads" } else { "follows" });
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
        let [outstanding, bytes, warm_up, window, windows] = numbers[..] else {
            return Err(format!("not a row: {line}").into());
        };
        let load = Load::start(&runtime, &handle, outstanding as usize, bytes as usize);
        std::thread::sleep(Duration::from_millis(warm_up));
        for _ in 0..windows {
            load.latencies.lock().clear();
            let (began, costs) = (Instant::now(), handle.log_costs());
            println!("begin");
            std::thread::sleep(Duration::from_millis(window));
            let (seconds, now) = (began.elapsed().as_secs_f64(), handle.log_costs());
            let mut latencies = std::mem::take(&mut *load.latencies.lock());
            latencies.sort_unstable();
            let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
            if latencies.is_empty() {
                return Err("nothing was committed in a window".into());
            }
            println!(
                "end {} {seconds} {} {} {} {} {} {}",
                latencies.len(),
                at(0.5),
                at(0.99),
                at(0.999),
                now.frames - costs.frames,
                now.syncs - costs.syncs,
                now.frame_bytes - costs.frame_bytes
            );
        }
        load.stop(&runtime)?;
    }
    drop(runtime);
    Ok(node.stop()?)
}

/// Senders under way.
struct Load {
    stop: Arc<AtomicBool>,
    /// In us, of the current window.
    latencies: Arc<Mutex<Vec<u32>>>,
    senders: Vec<tokio::task::JoinHandle<std::result::Result<(), &'static str>>>,
}

impl Load {
    fn start(runtime: &tokio::runtime::Runtime, handle: &GroupHandle<Plain>, outstanding: usize, bytes: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let body = Bytes::from(vec![0x5a; bytes]);
        let senders = (0..outstanding)
            .map(|_| runtime.spawn(send(handle.clone(), body.clone(), Arc::clone(&stop), Arc::clone(&latencies))))
            .collect();
        Load { stop, latencies, senders }
    }

    fn stop(self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            runtime.block_on(sender)??;
        }
        Ok(())
    }
}

async fn send(
    handle: GroupHandle<Plain>,
    body: Bytes,
    stop: Arc<AtomicBool>,
    latencies: Arc<Mutex<Vec<u32>>>,
) -> std::result::Result<(), &'static str> {
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let (ticket, outcome) = oneshot::channel();
        // The copy that a broker makes from the socket into the stored form.
        let item = Bytes::copy_from_slice(&body);
        let size_hint = item.len();
        handle.propose(Proposal { item, ticket, size_hint }).map_err(|_| "the log is busy")?;
        match outcome.await {
            Ok(Outcome::Answered(())) => latencies.lock().push(began.elapsed().as_micros() as u32),
            _ => return Err("the leadership ended"),
        }
    }
    Ok(())
}
