//! `ledgermq admin raft transfer|add-learner|promote|remove|replace|move`: who is in a group, and who leads it.
//!
//! The leader is found by what the replicas say, asked, and asked again should it change meanwhile; a verb is done when the
//! leader's applied membership shows it. So a verb that was cut short can be given again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledgermq_client::{Admin, CallError};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use serde_json::{Value, json};

use crate::terminal::say;

/// Time to find a leader that serves, and for a change once it is allowed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes of log by which a learner may lag when it is to get its vote.
const LAG_MAX: u64 = 4 << 20;

/// For how long it must have been that near.
const NEAR_FOR: Duration = Duration::from_secs(3);

/// Looks in a row at which the leader may not have heard of it lately: it forgets twice a second.
const SILENT_LOOKS_MAX: u32 = 4;

/// Which group.
#[derive(Debug, Args)]
pub(super) struct GroupArg {
    /// Broker name of the group; may be left out when there is only one
    #[arg(long)]
    group: Option<String>,
}

/// A hand-over.
#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// Raft id of the member that is to lead; whoever can take over best if absent
    to: Option<u64>,
    #[command(flatten)]
    group: GroupArg,
}

/// A new replica.
#[derive(Debug, Args)]
pub(super) struct LearnerArgs {
    /// Clients' address (host:port) of the group on the new node, which runs already
    address: String,
    #[command(flatten)]
    group: GroupArg,
}

/// Votes.
#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// Raft ids of the learners; several get their vote in one step
    #[arg(required = true)]
    ids: Vec<u64>,
    /// Seconds to wait until they have nearly the whole log
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Allow a group of two voters, which stops when either fails
    #[arg(long)]
    two_voters: bool,
    #[command(flatten)]
    group: GroupArg,
}

/// Removals.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Raft ids of the members; several leave in one step
    #[arg(required = true)]
    ids: Vec<u64>,
    /// Allow a group of two voters, which stops when either fails
    #[arg(long)]
    two_voters: bool,
    #[command(flatten)]
    group: GroupArg,
}

/// A replacement.
#[derive(Debug, Args)]
pub(super) struct ReplaceArgs {
    /// Raft id of the member that goes; it may be dead
    old: u64,
    /// Raft id of the learner that takes its place, or the clients' address (host:port) of the group on the new node
    new: String,
    /// Seconds to wait until the new one has nearly the whole log
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    #[command(flatten)]
    group: GroupArg,
}

/// New addresses.
#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    /// Raft id of the member
    id: u64,
    /// host:port at which its node hears the other nodes from now on
    #[arg(long, required_unless_present = "client")]
    peer: Option<String>,
    /// host:port that clients are told from now on
    #[arg(long)]
    client: Option<String>,
    #[command(flatten)]
    group: GroupArg,
}

/// Tells the group where a member is reached.
pub(super) async fn move_member(admin: &Admin, args: MoveArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    let (_, now) = leader(admin, &group).await?;
    let mut wanted = member(&now, args.id).with_context(|| format!("{} is no member of {group}", args.id))?;
    for (key, address) in [("peer", args.peer), ("client", args.client)] {
        if let Some(address) = address {
            wanted[key] = json!(address);
        }
    }
    let done = |now: &Value| member(now, args.id).as_ref() == Some(&wanted);
    let status = change(admin, &group, &json!({ "moves": [wanted] }), done).await?;
    report(&status, &group, as_json);
    Ok(())
}

/// Hands the leadership over.
pub(super) async fn transfer(admin: &Admin, args: TransferArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    let status = hand_over(admin, &group, args.to).await?;
    report(&status, &group, as_json);
    Ok(())
}

/// Has the leader of a group hand over to this member, or to whom it chooses, and returns what the new one says of itself.
pub(crate) async fn hand_over(admin: &Admin, group: &str, to: Option<u64>) -> Result<Value> {
    let (address, status) = leader(admin, group).await?;
    let before = status["term"].as_u64();
    admin.transfer(&address, &json!({ "to": to })).await.map_err(in_words)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, status) = leader(admin, group).await?;
        let there = to.is_none_or(|to| status["raftId"] == json!(to));
        // Asked for who leads already, nothing changes.
        if there && (to.is_some() || status["term"].as_u64() > before) {
            return Ok(status);
        }
        ensure!(Instant::now() < until, "the leadership of {group} went to {}, not where it should", status["raftId"]);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Takes a new replica in.
pub(super) async fn add_learner(admin: &Admin, args: LearnerArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    let (_, status) = learner(admin, &group, &args.address).await?;
    report(&status, &group, as_json);
    Ok(())
}

/// Gives learners their vote.
pub(super) async fn promote(admin: &Admin, args: PromoteArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    until_near(admin, &group, &args.ids, Duration::from_secs(args.timeout)).await?;
    let body = json!({ "promote": args.ids, "twoVoters": args.two_voters });
    let status = change(admin, &group, &body, |now| args.ids.iter().all(|id| is_voter(now, *id))).await?;
    report(&status, &group, as_json);
    Ok(())
}

/// Removes members.
pub(super) async fn remove(admin: &Admin, args: RemoveArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    let (_, now) = leader(admin, &group).await?;
    // One that is gone is no error: the verb may be given again.
    let strange = args.ids.iter().find(|id| **id > now["highestRaftId"].as_u64().unwrap_or(0));
    ensure!(strange.is_none(), "{} never was a member of {group}", strange.copied().unwrap_or_default());
    let body = json!({ "remove": args.ids, "twoVoters": args.two_voters });
    let status = change(admin, &group, &body, |now| !args.ids.iter().any(|id| is_member(now, *id))).await?;
    report(&status, &group, as_json);
    Ok(())
}

/// Puts a new member in the place of another.
pub(super) async fn replace(admin: &Admin, args: ReplaceArgs, as_json: bool) -> Result<()> {
    let group = group(admin, &args.group).await?;
    let new = match args.new.parse() {
        Ok(id) => id,
        Err(_) => learner(admin, &group, &args.new).await?.0,
    };
    let done = |now: &Value| is_voter(now, new) && !is_member(now, args.old);
    let (_, now) = leader(admin, &group).await?;
    if !done(&now) {
        ensure!(is_member(&now, args.old), "{} is no member of {group}", args.old);
        until_near(admin, &group, &[new], Duration::from_secs(args.timeout)).await?;
    }
    let status = change(admin, &group, &json!({ "promote": [new], "remove": [args.old] }), done).await?;
    report(&status, &group, as_json);
    Ok(())
}

fn report(status: &Value, group: &str, as_json: bool) {
    if as_json {
        say(json!({
            "group": group,
            "leader": status["raftId"],
            "term": status["term"],
            "voters": status["voters"],
            "learners": status["learners"],
        }));
    } else {
        let (voters, learners) = (&status["voters"], &status["learners"]);
        say(format_args!("{group}: voters {voters}, learners {learners}, led by {}", status["raftId"]));
    }
}

/// The group that is meant.
async fn group(admin: &Admin, arg: &GroupArg) -> Result<String> {
    let mut names: Vec<String> = admin.cluster().await?.broker_addr_table.into_keys().collect();
    match &arg.group {
        Some(name) if names.contains(name) => Ok(name.clone()),
        Some(name) => bail!("no name server knows a group {name}; there are {}", names.join(", ")),
        None if names.len() == 1 => Ok(names.remove(0)),
        None => bail!("say which group with --group: there are {}", names.join(", ")),
    }
}

/// What a node says of its replica of a group.
pub(crate) async fn status_at(admin: &Admin, group: &str, address: &str) -> Result<Value> {
    let node = admin.raft_status(address).await?;
    let groups = node.get("groups").and_then(Value::as_array).cloned().unwrap_or_default();
    let own = groups.into_iter().find(|it| it["brokerName"] == json!(group));
    own.with_context(|| format!("the node at {address} has no replica of {group}"))
}

/// Address and status of the leader of a group, once there is one that serves.
pub(crate) async fn leader(admin: &Admin, group: &str) -> Result<(String, Value)> {
    let until = Instant::now() + PATIENCE;
    loop {
        let info = admin.cluster().await?;
        let brokers = info.broker_addr_table.get(group).map(|broker| &broker.broker_addrs);
        let mut asked: Vec<String> = brokers.into_iter().flat_map(|addresses| addresses.values().cloned()).collect();
        let mut n = 0;
        while let Some(address) = asked.get(n).cloned() {
            n += 1;
            let Ok(status) = status_at(admin, group, &address).await else { continue };
            if status["role"] == "leader" {
                return Ok((address, status));
            }
            if let Some(told) = status["leaderAddress"].as_str().map(str::to_owned).filter(|it| !asked.contains(it)) {
                asked.push(told);
            }
        }
        ensure!(Instant::now() < until, "{group} has no leader that serves after {} s", PATIENCE.as_secs());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn ids(status: &Value, key: &str) -> Vec<u64> {
    status[key].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// What the table of members says of one.
fn member(status: &Value, id: u64) -> Option<Value> {
    status["members"].as_array()?.iter().find(|it| it["raftId"] == json!(id)).cloned()
}

fn is_voter(status: &Value, id: u64) -> bool {
    status["joint"] == false && ids(status, "voters").contains(&id)
}

fn is_member(status: &Value, id: u64) -> bool {
    status["joint"] == true || ids(status, "voters").contains(&id) || ids(status, "learners").contains(&id)
}

/// Takes the replica at this address in as a learner, unless it is a member already. Returns its number.
async fn learner(admin: &Admin, group: &str, address: &str) -> Result<(u64, Value)> {
    let new =
        status_at(admin, group, address).await.with_context(|| format!("cannot ask the new node at {address}"))?;
    let id = new["raftId"].as_u64().context("the new node names no raft id")?;
    let known = |now: &Value| {
        let mut members = now["members"].as_array().into_iter().flatten();
        members.any(|it| it["raftId"] == new["raftId"] && it["replica"] == new["replica"])
    };
    let newcomer = json!({
        "raftId": id, "replica": new["replica"], "peer": new["peerAddress"], "client": new["clientAddress"],
    });
    Ok((id, change(admin, group, &json!({ "learners": [newcomer] }), known).await?))
}

/// Has the leader change the membership, until its applied membership shows it.
async fn change(admin: &Admin, group: &str, body: &Value, done: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (address, status) = leader(admin, group).await?;
        if done(&status) {
            return Ok(status);
        }
        match admin.change_members(&address, body).await {
            Ok(_) => continue,
            // Refused for a reason that time does not mend.
            Err(error) if error.code() == Some(ResponseCode::INVALID_PARAMETER) => return Err(in_words(error)),
            Err(error) if Instant::now() >= until => return Err(in_words(error)),
            Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// The broker's own words, without the client's account of its attempts.
fn in_words(error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused { remark, .. } => anyhow::anyhow!("{remark}"),
        other => other.into(),
    }
}

/// Waits until these learners have had nearly the whole log for a while.
async fn until_near(admin: &Admin, group: &str, learners: &[u64], timeout: Duration) -> Result<()> {
    let until = Instant::now() + timeout;
    let mut near_since = None;
    let mut silent = 0;
    loop {
        let (_, status) = leader(admin, group).await?;
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let mut why = None;
        let mut heard = true;
        for id in learners {
            ensure!(
                is_member(&status, *id),
                "{id} is no member of {group}: add it with `admin raft add-learner` first"
            );
            let peer = peers.iter().find(|peer| peer["raftId"] == json!(id));
            let lag = peer.and_then(|peer| peer["lagBytes"].as_u64()).unwrap_or(u64::MAX);
            heard &= peer.is_some_and(|peer| peer["active"] == true);
            if lag >= LAG_MAX || peer.is_none_or(|peer| peer["matched"] == 0) {
                why = Some(format!("{id} lacks {} MiB of log", lag >> 20));
            }
        }
        silent = if heard { 0 } else { silent + 1 };
        if silent > SILENT_LOOKS_MAX {
            why = Some("it does not answer the leader".to_owned());
        }
        match &why {
            None => {
                if near_since.get_or_insert_with(Instant::now).elapsed() >= NEAR_FOR {
                    return Ok(());
                }
            }
            Some(_) => near_since = None,
        }
        if Instant::now() >= until {
            bail!(
                "not caught up after {} s: {}",
                timeout.as_secs(),
                why.as_deref().unwrap_or("not for long enough yet")
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
