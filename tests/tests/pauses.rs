//! Processes that stop for a while and go on as if nothing had happened, alone and with deaths beside them: the faults that found
//! most in other systems.

use std::time::Duration;

use anyhow::Result;
use ledgermq_tests::cluster::{Cluster, Node, signal};
use ledgermq_tests::drill::{self, Drill};
use rustix::process::Signal;

fn others(cluster: &Cluster, id: u64) -> Result<Vec<Node>> {
    Ok(cluster.nodes()?.into_iter().filter(|node| node.id != id).collect())
}

/// Would break: waking up in another time. Leaders and followers sleep for 2 s, and for 20 s in the long drills.
#[test]
fn sleepers_wake_up_and_nothing_is_lost() {
    let mut drill = Drill::start("sleepers", Cluster::start().unwrap()).unwrap();
    let sleeps: &[u64] = if drill::long() { &[2, 20] } else { &[2] };
    for _ in 0..drill::rounds(1).unwrap() {
        for seconds in sleeps {
            for leads in [true, false] {
                let node = drill.cluster.await_leader(None).unwrap();
                let node = if leads { node } else { others(&drill.cluster, node.id).unwrap().remove(0) };
                drill
                    .fault(|cluster| {
                        signal(node.pid, Signal::STOP)?;
                        std::thread::sleep(Duration::from_secs(*seconds));
                        // Whoever sleeps, the others serve.
                        if leads {
                            cluster.await_leader(Some(node.id))?;
                        }
                        signal(node.pid, Signal::CONT)
                    })
                    .unwrap();
            }
        }
    }
    drill.judge().unwrap();
}

/// Would break: the recipe that lost other systems their messages. Two sleep and the third dies; they wake up; then the one that came
/// back and another one sleep.
#[test]
fn pauses_and_deaths_together_lose_nothing() {
    let mut drill = Drill::start("pauses-and-deaths", Cluster::start().unwrap()).unwrap();
    for round in 0..drill::rounds(2).unwrap() {
        let leader = drill.cluster.await_leader(None).unwrap();
        let followers = others(&drill.cluster, leader.id).unwrap();
        // Each round another one of the three dies.
        let (dies, sleep) = if round % 2 == 0 {
            (leader, followers)
        } else {
            (followers[0].clone(), vec![leader, followers[1].clone()])
        };
        drill
            .fault(|cluster| {
                for node in &sleep {
                    signal(node.pid, Signal::STOP)?;
                }
                cluster.kill(dies.id)?;
                std::thread::sleep(Duration::from_secs(1));
                for node in &sleep {
                    signal(node.pid, Signal::CONT)?;
                }
                Ok(())
            })
            .unwrap();
        let back = drill.cluster.restart(dies.id).unwrap();
        drill.calm().unwrap();
        drill
            .fault(|_| {
                let pair = [&back, &sleep[0]];
                for node in pair {
                    signal(node.pid, Signal::STOP)?;
                }
                std::thread::sleep(Duration::from_secs(1));
                pair.into_iter().try_for_each(|node| signal(node.pid, Signal::CONT))
            })
            .unwrap();
    }
    drill.judge().unwrap();
}
