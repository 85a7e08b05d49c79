//! What `--version` says: a build with planted bugs must name them, so that nobody takes it for a real one.

use std::sync::OnceLock;

use ledgermq_dledger::plant::{AVAILABLE, Bug};

/// The version, with the planted bugs of this build.
pub(crate) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        if !AVAILABLE {
            return version.to_owned();
        }
        let bugs: Vec<&str> = Bug::ALL.into_iter().map(Bug::name).collect();
        format!("{version} (NOT FOR USE: built with planted-bugs: {})", bugs.join(", "))
    })
}
