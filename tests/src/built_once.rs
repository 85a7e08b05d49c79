//! Peers are built once per set of sources, whichever test comes first, into a folder beside the tests' own executables.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::alone::build_dir;

/// Runs `build` with the folder `name`, unless it ran there before for the very same files below `sources`; names the
/// folder. Other test processes wait meanwhile.
///
/// # Errors
/// When the sources cannot be read, or the build fails.
pub fn built_once(name: &str, sources: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = build_dir()?.join(name);
    std::fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let stamp = dir.join("stamp");
    let sources = digest(sources)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(dir);
    }
    build(&dir)?;
    std::fs::write(&stamp, sources)?;
    Ok(dir)
}

/// Digest of all files of a project, by name and content.
fn digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        std::fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
