//! The folder entries of the simulated disk: what is seen, what is durable, and the changes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Fate, Unsynced};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

/// A change that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Put(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (one, two) = match self {
            Change::Put(path, _) | Change::Remove(path) => (path, None),
            Change::Rename(from, to) => (from, Some(to)),
        };
        std::iter::once(one).chain(two)
    }

    /// Whether this change needs `earlier` to have happened.
    fn needs(&self, earlier: &Change) -> bool {
        self.paths().any(|path| earlier.paths().any(|other| other == path))
            || matches!(self, Change::Rename(from, _) if earlier.paths().any(|other| other.starts_with(from)))
    }
}

type Map = BTreeMap<PathBuf, Node>;

/// All folders and the names in them.
#[derive(Default)]
pub(super) struct Names {
    seen: Map,
    durable: Map,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        if is_root(path) { Some(Node::Dir) } else { self.seen.get(path).copied() }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.node(path) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The file that a path leads to when nothing unsynced survives.
    pub(super) fn durable_file(&self, path: &Path) -> Option<u64> {
        match self.durable.get(path) {
            Some(Node::File(id)) => Some(*id),
            _ => None,
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.seen.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path, *id)),
            Node::Dir => None,
        })
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.check_dir(path)?;
        let children = self.seen.keys().filter(|child| child.parent() == Some(path));
        Ok(children.filter_map(|child| child.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }

    pub(super) fn create(&mut self, path: &Path, node: Node) -> io::Result<()> {
        self.check_dir(path.parent().unwrap_or(Path::new("")))?;
        if self.node(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.record(Change::Put(path.to_owned(), node));
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| self.node(dir).is_none()).collect();
        for dir in missing.into_iter().rev() {
            self.create(dir, Node::Dir)?;
        }
        self.check_dir(path)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.node(from).ok_or(io::ErrorKind::NotFound)?;
        self.check_dir(to.parent().unwrap_or(Path::new("")))?;
        match (moved, self.node(to)) {
            (Node::File(_), Some(Node::Dir)) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            _ => {}
        }
        self.record(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.record(Change::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.check_dir(path)?;
        let below: Vec<PathBuf> = self.seen.keys().filter(|child| child.starts_with(path)).cloned().collect();
        for child in below.into_iter().rev() {
            self.record(Change::Remove(child));
        }
        Ok(())
    }

    /// Makes the changes in one folder durable, and what they need.
    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.check_dir(dir)?;
        let mut chosen = vec![false; self.pending.len()];
        for at in (0..self.pending.len()).rev() {
            let change = &self.pending[at];
            chosen[at] = change.paths().any(|path| path.parent() == Some(dir))
                || (at + 1..self.pending.len()).any(|later| chosen[later] && self.pending[later].needs(change));
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, chosen) in pending.into_iter().zip(chosen) {
            if chosen { apply(&mut self.durable, &change) } else { self.pending.push(change) }
        }
        Ok(())
    }

    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &change);
        }
    }

    /// Keeps the durable names and, of the changes since, those that `decide` keeps and whose predecessors it kept.
    /// Returns how many it undid.
    pub(super) fn power_cut(&mut self, decide: &mut dyn FnMut(Unsynced<'_>) -> Fate) -> u64 {
        let mut undone: BTreeSet<PathBuf> = BTreeSet::new();
        let mut count = 0;
        for change in std::mem::take(&mut self.pending) {
            let follows_undone = change.paths().any(|path| path.ancestors().any(|part| undone.contains(part)));
            let path = change.paths().last().expect("a change concerns a path");
            if follows_undone || decide(Unsynced::Name { path }) == Fate::Lost {
                undone.extend(change.paths().cloned());
                count += 1;
            } else {
                apply(&mut self.durable, &change);
            }
        }
        // A name whose folder was never made durable is gone with the folder.
        let kept = self.durable.clone();
        self.durable
            .retain(|path, _| path.ancestors().skip(1).all(|dir| is_root(dir) || kept.get(dir) == Some(&Node::Dir)));
        self.seen = self.durable.clone();
        count
    }

    /// Files that any name leads to, now or after a power cut.
    pub(super) fn referenced(&self) -> BTreeSet<u64> {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Put(_, node) => Some(*node),
            _ => None,
        });
        let nodes = self.seen.values().chain(self.durable.values()).copied().chain(pending);
        nodes
            .filter_map(|node| match node {
                Node::File(id) => Some(id),
                Node::Dir => None,
            })
            .collect()
    }

    fn record(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.pending.push(change);
    }

    fn check_dir(&self, path: &Path) -> io::Result<()> {
        match self.node(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none() || path == Path::new(".")
}

/// Carries a change out. One whose subject is not there (because it was undone) changes nothing.
fn apply(map: &mut Map, change: &Change) {
    match change {
        Change::Put(path, node) => {
            map.insert(path.clone(), *node);
        }
        Change::Remove(path) => {
            map.remove(path);
        }
        Change::Rename(from, to) => {
            let moved: Vec<PathBuf> = map.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in moved {
                let node = map.remove(&path).expect("listed just now");
                let rest = path.strip_prefix(from).expect("listed by prefix");
                let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                map.insert(target, node);
            }
        }
    }
}
