//! The parent of a local cluster's processes: starts them, says what becomes of them, starts a node again on request, and
//! stops them all when it is told to stop.
//!
//! One task owns all state; children, signals, the control socket and the clock only send it events.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::cluster_file::{ClusterFile, NodeEntry};
use super::control::{Asked, ControlServer, Reply, Request};
use super::plan::{NODES_MAX, Plan, config_path, data_dir, node_dir};
use crate::probe::{self, LeaderProbe};
use crate::terminal::say;

/// How often the supervisor looks at its cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Time for the name server, and for a node, to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for a process to end after SIGINT; then it gets a SIGKILL, which loses nothing either.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Looks at a node that is to be restarted and still counts as running: whoever has just killed it is ahead of the notice of
/// its end.
const RESTART_LOOKS: u32 = 20;

/// Lines of a dead process's log that are shown.
const LAST_WORDS: usize = 5;

/// Bytes of a log in which the last words are looked for.
const LAST_WORDS_BYTES: u64 = 8192;

/// One of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Counted from 1.
    Namesrv(u64),
    Node(u64),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Namesrv(1) => f.write_str("namesrv"),
            Role::Namesrv(n) => write!(f, "namesrv {n}"),
            Role::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// What the supervisor waits for.
enum Happened {
    Ended(Role, u32, std::io::Result<ExitStatus>),
    Leaders(BTreeMap<String, String>),
    Up(Role, u32),
    /// A request that is looked at again, for the last time when 0 looks are left.
    AskedAgain(Asked, u32),
}

/// Somebody waits for a node to be up.
struct Starting {
    pid: u32,
    answer: oneshot::Sender<Reply>,
}

/// See the module's head.
pub(super) struct Supervisor {
    dir: PathBuf,
    plan: Plan,
    plant: Option<&'static str>,
    control: ControlServer,
    running: BTreeMap<Role, u32>,
    starting: BTreeMap<u64, Starting>,
    leaders: BTreeMap<String, String>,
    serving: bool,
    stopping: bool,
    born: Instant,
    happened: mpsc::Receiver<Happened>,
    tell: mpsc::Sender<Happened>,
}

impl Supervisor {
    /// Takes over the folder. Nothing runs yet.
    pub(super) fn start(dir: PathBuf, plan: Plan, plant: Option<&'static str>) -> Result<Supervisor> {
        let control = ControlServer::listen(&dir)?;
        // Each process and each probe has at most a few events on their way.
        let (tell, happened) = mpsc::channel(64);
        Ok(Supervisor {
            dir,
            plan,
            plant,
            control,
            running: BTreeMap::new(),
            starting: BTreeMap::new(),
            leaders: BTreeMap::new(),
            serving: false,
            stopping: false,
            born: Instant::now(),
            happened,
            tell,
        })
    }

    /// Starts everything and keeps it until a signal comes.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let result = tokio::select! {
            result = self.supervise() => result,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        self.stop().await;
        result
    }

    async fn supervise(&mut self) -> Result<()> {
        let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        say(format_args!(
            "local cluster of {} and {} in {}{}",
            plural(self.plan.nodes, "node"),
            plural(self.plan.groups.len() as u64, "group"),
            self.dir.display(),
            self.plant.map(|bug| format!(", with the planted bug {bug}")).unwrap_or_default()
        ));
        for n in self.plan.namesrv_ids() {
            self.spawn(Role::Namesrv(n))?;
        }
        for id in self.plan.node_ids() {
            // A node that was planned and never born has none.
            if config_path(&self.dir, id).try_exists().context("cannot look for a config")? {
                self.spawn(Role::Node(id))?;
            }
        }
        let probe = LeaderProbe::new(&self.plan.namesrv_list())?;
        tokio::spawn(watch_leaders(probe, self.tell.clone()));
        let deadline = tokio::time::sleep(START_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                Some(happened) = self.happened.recv() => self.handle(happened)?,
                Some(asked) = self.control.next() => self.handle_request(asked, RESTART_LOOKS),
                () = &mut deadline, if !self.serving => bail!(
                    "no leader serves every group after {} s: the logs are {}/node-*/broker.log",
                    START_TIMEOUT.as_secs(), self.dir.display()
                ),
            }
        }
    }

    fn handle(&mut self, happened: Happened) -> Result<()> {
        match happened {
            Happened::Ended(role, pid, status) => self.handle_end(role, pid, status),
            Happened::Leaders(leaders) => self.handle_leaders(leaders),
            Happened::Up(Role::Node(id), pid) => {
                if let Some(starting) = self.starting_as(id, pid) {
                    self.write_cluster_file()?;
                    say(format_args!("node {id} is back as process {pid}"));
                    let _ = starting.answer.send(Reply::Started { pid });
                }
                Ok(())
            }
            Happened::Up(Role::Namesrv(_), _) => Ok(()),
            Happened::AskedAgain(asked, looks_left) => {
                self.handle_request(asked, looks_left);
                Ok(())
            }
        }
    }

    /// Takes out the start of a node that waits for this very process. An earlier one, which ended at once, may still be heard of
    /// while the next start is under way.
    fn starting_as(&mut self, id: u64, pid: u32) -> Option<Starting> {
        self.starting.get(&id).is_some_and(|starting| starting.pid == pid).then(|| self.starting.remove(&id)).flatten()
    }

    fn handle_end(&mut self, role: Role, pid: u32, status: std::io::Result<ExitStatus>) -> Result<()> {
        if self.running.get(&role) == Some(&pid) {
            self.running.remove(&role);
        }
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("unknown: {error}"),
        };
        say(format_args!("{role} (process {pid}) ended, {how}"));
        let words = self.last_words(role);
        if let Role::Node(id) = role
            && let Some(starting) = self.starting_as(id, pid)
        {
            let _ = starting.answer.send(Reply::Refused(format!("its process ended at once ({how}): {words}")));
        }
        if !self.serving {
            bail!("{role} ended before the cluster served ({how}): {words}");
        }
        self.write_cluster_file()
    }

    fn handle_leaders(&mut self, leaders: BTreeMap<String, String>) -> Result<()> {
        for (group, address) in &leaders {
            if self.leaders.get(group) != Some(address) {
                let node = self.plan.node_ids().find(|&id| self.plan.clients(id).get(group) == Some(address));
                let node = node.map_or_else(|| "a stranger".to_owned(), |id| format!("node {id}"));
                say(format_args!("{group} is led by {node} ({address})"));
            }
        }
        self.leaders = leaders;
        let served = self.plan.groups.iter().all(|group| self.leaders.contains_key(&group.name));
        if served && !self.serving {
            self.serving = true;
            self.write_cluster_file()?;
            self.announce();
        }
        Ok(())
    }

    fn announce(&self) {
        let rows: Vec<Vec<String>> = self
            .cluster_file()
            .nodes
            .iter()
            .map(|node| {
                let groups: Vec<String> =
                    node.groups.iter().map(|(name, address)| format!("{name} {address}")).collect();
                vec![node.id.to_string(), node.pid.to_string(), node.raft.clone(), node.http.clone(), groups.join(", ")]
            })
            .collect();
        say(crate::terminal::table(&["NODE", "PID", "RAFT", "HTTP", "CLIENTS"], &rows));
        say(format_args!(
            "ready after {:.1} s; name server {}; Ctrl-C stops everything",
            self.born.elapsed().as_secs_f64(),
            self.plan.namesrv_list()
        ));
        if self.plan.nodes == 1 {
            say("for development only: a single node replicates nothing, and what its disk loses is lost");
        }
    }

    fn handle_request(&mut self, asked: Asked, looks_left: u32) {
        let (role, known) = match asked.request {
            Request::RestartNode { id } => (Role::Node(id), self.plan.node_ids().any(|known| known == id)),
            Request::RestartNamesrv { n } => (Role::Namesrv(n), self.plan.namesrv_ids().any(|known| known == n)),
            Request::PlanNode | Request::RemoveNode { .. } => {
                let reply = self.change_plan(&asked.request);
                let _ = asked.answer.send(reply.unwrap_or_else(|error| Reply::Refused(format!("{error:#}"))));
                return;
            }
        };
        if !known {
            let _ = asked.answer.send(Reply::Refused(format!("the cluster has no {role}")));
            return;
        }
        if let Some(pid) = self.running.get(&role) {
            if looks_left > 0 {
                let tell = self.tell.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    let _ = tell.send(Happened::AskedAgain(asked, looks_left - 1)).await;
                });
                return;
            }
            let _ = asked.answer.send(Reply::Refused(format!("it runs already, as process {pid}")));
            return;
        }
        let spawned = self.spawn(role).and_then(|pid| {
            // A name server is up when its brokers have told it: whoever asks it knows how to wait.
            if matches!(role, Role::Namesrv(_)) { self.write_cluster_file().map(|()| pid) } else { Ok(pid) }
        });
        match (spawned, role) {
            (Ok(pid), Role::Node(id)) => {
                self.starting.insert(id, Starting { pid, answer: asked.answer });
            }
            (Ok(pid), Role::Namesrv(_)) => {
                let _ = asked.answer.send(Reply::Started { pid });
            }
            (Err(error), _) => {
                let _ = asked.answer.send(Reply::Refused(format!("{error:#}")));
            }
        }
    }

    /// A node comes, or goes for good.
    fn change_plan(&mut self, request: &Request) -> Result<Reply> {
        let mut plan = self.plan.clone();
        let id = match *request {
            Request::RemoveNode { id } => {
                if !plan.node_ids().any(|known| known == id) {
                    bail!("the cluster has no node {id}");
                }
                plan.removed.push(id);
                self.signal_all(&[Role::Node(id)], Signal::INT);
                id
            }
            _ => {
                let Some(id) = plan.next_node() else {
                    bail!("there are no ports for more nodes: numbers go up to {NODES_MAX}, and none is used twice");
                };
                plan.added.push(id);
                id
            }
        };
        plan.write(&self.dir)?;
        self.plan = plan;
        self.write_cluster_file()?;
        Ok(Reply::Planned { id })
    }

    /// Starts a process, and the tasks that tell when it is up and when it has ended.
    fn spawn(&mut self, role: Role) -> Result<u32> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let under = if let Role::Node(id) = role { self.plan.hosts.under(id) } else { Vec::new() };
        let mut command = match under.split_first() {
            Some((first, others)) => {
                let mut command = Command::new(first);
                command.args(others).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg(match role {
            Role::Namesrv(_) => "namesrv",
            Role::Node(_) => "broker",
        });
        command.args(["--parent", &std::process::id().to_string()]);
        match role {
            Role::Namesrv(n) => command.args(["--listen", &self.plan.namesrv(n).to_string()]),
            Role::Node(id) => command.arg("-c").arg(config_path(&self.dir, id)),
        };
        if matches!(role, Role::Namesrv(_)) && self.plan.hosts.exposed() {
            command.arg("--insecure");
        }
        if let (Some(bug), Role::Node(_)) = (self.plant, role) {
            command.args(["--plant", bug]);
        }
        let log_path = self.log_path(role);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot open {}", log_path.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            // Ctrl-C goes to the terminal's foreground group: only this process, which then stops the others in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {role}"))?;
        let pid = child.id().context("the process was gone at once")?;
        self.running.insert(role, pid);
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            let _ = tell.send(Happened::Ended(role, pid, status)).await;
        });
        if let Role::Node(id) = role {
            let http = self.plan.http(id);
            let tell = self.tell.clone();
            tokio::spawn(async move {
                let until = Instant::now() + START_TIMEOUT;
                while Instant::now() < until {
                    if probe::http_ok(http, "/healthz").await {
                        let _ = tell.send(Happened::Up(role, pid)).await;
                        return;
                    }
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            });
        }
        Ok(pid)
    }

    fn cluster_file(&self) -> ClusterFile {
        let node = |id| NodeEntry {
            id,
            pid: self.running.get(&Role::Node(id)).copied().unwrap_or(0),
            data_dir: data_dir(&self.dir, id),
            raft: self.plan.raft(id).to_string(),
            http: self.plan.http(id).to_string(),
            groups: self.plan.clients(id),
        };
        let namesrv_pid = |n| self.running.get(&Role::Namesrv(n)).copied().unwrap_or(0);
        ClusterFile {
            namesrv: self.plan.namesrv_list(),
            namesrv_pids: self.plan.namesrv_ids().map(namesrv_pid).collect(),
            nodes: self.plan.node_ids().map(node).collect(),
        }
    }

    fn write_cluster_file(&self) -> Result<()> {
        if self.serving && !self.stopping {
            self.cluster_file().write(&self.dir)?;
        }
        Ok(())
    }

    fn log_path(&self, role: Role) -> PathBuf {
        match role {
            Role::Namesrv(1) => self.dir.join("namesrv.log"),
            Role::Namesrv(n) => self.dir.join(format!("namesrv-{n}.log")),
            Role::Node(id) => node_dir(&self.dir, id).join("broker.log"),
        }
    }

    /// The end of a process's log.
    fn last_words(&self, role: Role) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let path = self.log_path(role);
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&path)?;
            let from = file.metadata()?.len().saturating_sub(LAST_WORDS_BYTES);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(LAST_WORDS).collect();
        if lines.is_empty() {
            return format!("{} is empty", path.display());
        }
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Stops the nodes, then the name server, so that a last hand-over is still known to somebody.
    async fn stop(&mut self) {
        self.stopping = true;
        ClusterFile::remove(&self.dir);
        say("stopping");
        let (nodes, namesrvs): (Vec<Role>, Vec<Role>) =
            self.running.keys().copied().partition(|role| matches!(role, Role::Node(_)));
        self.stop_all(&nodes).await;
        self.stop_all(&namesrvs).await;
        say("stopped");
    }

    async fn stop_all(&mut self, roles: &[Role]) {
        // Not SIGTERM: a node would go on serving clients for a while, and all of them are to end.
        self.signal_all(roles, Signal::INT);
        if tokio::time::timeout(STOP_TIMEOUT, self.wait_for_ends(roles)).await.is_err() {
            for role in roles.iter().filter(|role| self.running.contains_key(role)) {
                say(format_args!("{role} does not stop after {} s: killed", STOP_TIMEOUT.as_secs()));
            }
            self.signal_all(roles, Signal::KILL);
            self.wait_for_ends(roles).await;
        }
    }

    fn signal_all(&self, roles: &[Role], with: Signal) {
        for role in roles {
            let pid = self.running.get(role).and_then(|&pid| Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid {
                // It may have ended meanwhile: then there is nobody to tell.
                let _ = kill_process(pid, with);
            }
        }
    }

    async fn wait_for_ends(&mut self, roles: &[Role]) {
        while roles.iter().any(|role| self.running.contains_key(role)) {
            match self.happened.recv().await {
                Some(Happened::Ended(role, pid, status)) => {
                    if self.running.get(&role) == Some(&pid) {
                        self.running.remove(&role);
                    }
                    match status {
                        Ok(status) if status.success() => {}
                        Ok(status) => say(format_args!("{role} (process {pid}) ended, {status}")),
                        Err(error) => say(format_args!("{role} (process {pid}) ended, unknown: {error}")),
                    }
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Tells, again and again, which address leads each group, as the name server knows it.
async fn watch_leaders(probe: LeaderProbe, tell: mpsc::Sender<Happened>) {
    let mut known = BTreeMap::new();
    loop {
        if let Ok(leaders) = probe.leaders().await
            && leaders != known
        {
            known = leaders.clone();
            if tell.send(Happened::Leaders(leaders)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
