//! Networks that fail: nodes cut off from each other one way and both ways, packets lost at random, late and out of order. Each node
//! has a network namespace of its own. Nothing acknowledged may be lost, and who is not needed must disturb nobody.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ledgermq_tests::alone::{self, Alone};
use ledgermq_tests::cluster::{Cluster, NODES, report};
use ledgermq_tests::drill::{self, Drill};
use ledgermq_tests::network::{CUTS, Network};

/// A drill on hosts of their own. In the order in which it has to be taken down.
struct Scene {
    drill: Drill,
    network: Network,
    _folder: tempfile::TempDir,
    _alone: Alone,
}

impl Scene {
    fn start(name: &'static str) -> Result<Scene> {
        let alone = alone::hold()?;
        let network = Network::new(NODES as u8)?;
        let folder = tempfile::Builder::new().prefix("ledgermq-test-").tempdir()?;
        let options = network.options();
        let options: Vec<&str> = ["--groups", "1"].into_iter().chain(options.iter().map(String::as_str)).collect();
        let cluster = Cluster::start_in_with(folder.path(), &options)?;
        Ok(Scene { drill: Drill::start(name, cluster)?, network, _folder: folder, _alone: alone })
    }

    /// Verdict, with everything in reach again.
    fn judge(self) -> Result<ledgermq_tests::checker::Report> {
        self.network.heal()?;
        self.drill.judge()
    }
}

/// Would break: a leader that is cut off and does not notice, whichever way it is cut. Clients still reach it.
#[test]
fn a_leader_cut_off_from_the_others_is_replaced() {
    let mut scene = Scene::start("cut-leader").unwrap();
    for _ in 0..drill::rounds(1).unwrap() {
        for cut in CUTS {
            let network = &scene.network;
            scene
                .drill
                .fault(|cluster| {
                    let leader = cluster.await_leader(None)?;
                    network.cut_from_nodes(leader.id, cut)?;
                    let begin = Instant::now();
                    let next = cluster.await_leader(Some(leader.id))?;
                    report(&format!("{cut:?}: node {} for node {} after {:?}", next.id, leader.id, begin.elapsed()));
                    Ok(())
                })
                .unwrap();
            network.heal().unwrap();
            scene.drill.calm().unwrap();
        }
    }
    scene.judge().unwrap();
}

/// Would break: a leader that vanishes without a word: no connection is reset, its clients hang.
#[test]
fn a_leader_that_vanishes_is_replaced() {
    let mut scene = Scene::start("vanished-leader").unwrap();
    for _ in 0..drill::rounds(2).unwrap() {
        let network = &scene.network;
        scene
            .drill
            .fault(|cluster| {
                let leader = cluster.await_leader(None)?;
                network.cut_from_all(leader.id)?;
                cluster.await_leader(Some(leader.id)).map(drop)
            })
            .unwrap();
        network.heal().unwrap();
        scene.drill.calm().unwrap();
    }
    scene.judge().unwrap();
}

/// Would break: a group that a follower with a bad line throws over. It stays under the same leader, and no send fails.
#[test]
fn a_follower_that_is_cut_off_disturbs_nobody() {
    let mut scene = Scene::start("cut-follower").unwrap();
    let leader = scene.drill.cluster.await_leader(None).unwrap().id;
    for _ in 0..drill::rounds(1).unwrap() {
        for cut in CUTS {
            let network = &scene.network;
            scene
                .drill
                .fault(|cluster| {
                    let follower = cluster.follower()?;
                    network.cut_from_nodes(follower.id, cut)?;
                    // Several election time-outs (600 to 950 ms): it has campaigned by then, or never does.
                    std::thread::sleep(Duration::from_secs(3));
                    Ok(())
                })
                .unwrap();
            network.heal().unwrap();
            // Those in which it comes back and finds the others.
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(
                scene.drill.cluster.leader().unwrap().id,
                leader,
                "{cut:?} of a follower cost the leader its place"
            );
        }
    }
    let result = scene.judge().unwrap();
    assert_eq!(result.sends, result.acked, "a send failed: {result}");
}

/// Would break: a minority that acknowledges, or that does not come back by itself. Both followers vanish; later the line is mended.
#[test]
fn without_a_quorum_nothing_is_acknowledged_and_service_comes_back_by_itself() {
    let mut scene = Scene::start("no-quorum").unwrap();
    for _ in 0..drill::rounds(1).unwrap() {
        let leader = scene.drill.cluster.await_leader(None).unwrap().id;
        for node in (1..=NODES).filter(|node| *node != leader) {
            scene.network.cut_from_all(node).unwrap();
        }
        // What is on its way at the cut may still be acknowledged; after the leader has heard nobody for an election time-out
        // nothing can be.
        std::thread::sleep(Duration::from_secs(2));
        let before = scene.drill.acked();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(scene.drill.acked(), before, "a leader alone acknowledges");
        let network = &scene.network;
        let healed = Instant::now();
        scene.drill.fault(|_| network.heal()).unwrap();
        report(&format!("served again {:?} after the line was mended", healed.elapsed()));
    }
    scene.judge().unwrap();
}

/// Would break: a lossy, slow or reordering network.
#[test]
fn packets_that_are_lost_late_and_out_of_order_cost_no_message() {
    let mut scene = Scene::start("bad-lines").unwrap();
    for _ in 0..drill::rounds(1).unwrap() {
        for share in [0.01, 0.1, 0.3] {
            let network = &scene.network;
            let before = scene.drill.acked();
            scene
                .drill
                .fault(|_| {
                    (1..=NODES).try_for_each(|node| network.lose(node, share))?;
                    std::thread::sleep(Duration::from_secs(4));
                    network.heal()
                })
                .unwrap();
            let acked = scene.drill.acked() - before - drill::BETWEEN_FAULTS;
            report(&format!("{share} of all packets lost: {acked} messages acknowledged in 4 s and the calm after it"));
        }
        let network = &scene.network;
        scene
            .drill
            .fault(|cluster| {
                let leader = cluster.await_leader(None)?.id;
                let delays: Vec<_> = (1..=NODES).map(|node| network.delay(node, 50)).collect::<Result<_>>()?;
                std::thread::sleep(Duration::from_secs(4));
                ensure!(cluster.leader()?.id == leader, "50 ms of delay cost the leader its place");
                network.heal()?;
                drop(delays);
                Ok(())
            })
            .unwrap();
    }
    scene.judge().unwrap();
}
