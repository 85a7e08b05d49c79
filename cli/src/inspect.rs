//! `ledgermq inspect`: the logs of stopped replicas, verified, compared byte by byte, or printed.
//!
//! Opens everything for reading only. A folder is a group's folder inside a node's data folder (`data/broker-a`): the one
//! with `meta` and `log/` in it. Exit status 0 means that what was asked holds.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use ledgermq_dledger::FrameKind;
use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::inspect::{self, Comparison, Verification};
use serde_json::json;

use crate::terminal::{say, table};

/// Payload bytes shown of each frame.
const PREVIEW_BYTES: usize = 24;

/// Logs of stopped replicas.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    command: InspectCommand,
}

#[derive(Debug, Subcommand)]
enum InspectCommand {
    /// Check every header and payload of a log
    Verify {
        /// Folder of a group
        #[arg(required = true, value_name = "DIR")]
        dirs: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the logs of a group's replicas, byte by byte, up to the smallest commit position
    Compare {
        /// Folders of the same group on two nodes or more
        #[arg(required = true, num_args = 2.., value_name = "DIR")]
        dirs: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the frames of a log
    Dump {
        /// Folder of a group
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Raft index of the first frame to print
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Frames to print
        #[arg(long, default_value_t = 100)]
        limit: u64,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub(crate) fn run(args: InspectArgs) -> Result<ExitCode> {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    match args.command {
        InspectCommand::Verify { dirs, json } => {
            for dir in &dirs {
                let found = inspect::verify(&fs, dir).with_context(|| format!("{} does not verify", dir.display()))?;
                say(if json { verification_json(&found).to_string() } else { verification_text(&found) });
            }
            Ok(ExitCode::SUCCESS)
        }
        InspectCommand::Compare { dirs, json } => {
            let found = inspect::compare(&fs, &dirs)?;
            say(if json { comparison_json(&found).to_string() } else { comparison_text(&found) });
            Ok(if found.equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        InspectCommand::Dump { dir, from, limit, json } => {
            dump(&fs, &dir, from, limit, json).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn verification_text(found: &Verification) -> String {
    let mut text = format!("{}: sound\n", found.dir.display());
    let frames: Vec<String> =
        found.frames.iter().map(|(kind, count)| format!("{count} {}", kind_name(*kind))).collect();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    row("group", found.identity.group.to_string());
    row("replica", format!("{} (raft id {})", found.identity.replica, found.identity.raft_id));
    row("term", format!("{}, vote {}", found.term, found.vote));
    row("first", format!("entry {}, begins at {}", found.first.0, found.first.1));
    row("committed", format!("entry {}, ends at {}", found.commit_index, found.commit_end));
    row("durable", format!("entry {}, ends at {}", found.durable.index, found.durable.end()));
    row("last", format!("entry {}, ends at {} ({:?})", found.tail.index, found.tail.end(), found.tail_state));
    row("frames", frames.join(", "));
    row("records", format!("{} in {} payload bytes", found.records, found.payload_bytes));
    if !found.broken_blanks.is_empty() {
        row("note", format!("{} half-written segment ends, which a start mends", found.broken_blanks.len()));
    }
    text.truncate(text.trim_end().len());
    text
}

fn verification_json(found: &Verification) -> serde_json::Value {
    let frames: serde_json::Map<String, serde_json::Value> =
        found.frames.iter().map(|(kind, count)| (kind_name(*kind).to_owned(), (*count).into())).collect();
    json!({
        "dir": found.dir,
        "cluster_id": found.identity.cluster_id.to_string(),
        "group": found.identity.group.to_string(),
        "replica": found.identity.replica.to_string(),
        "raft_id": found.identity.raft_id,
        "term": found.term,
        "vote": found.vote,
        "first_index": found.first.0,
        "first_pos": found.first.1.0,
        "commit_index": found.commit_index,
        "commit_end": found.commit_end.0,
        "durable_index": found.durable.index,
        "durable_end": found.durable.end().0,
        "last_index": found.tail.index,
        "last_end": found.tail.end().0,
        "tail": format!("{:?}", found.tail_state),
        "segment_size": found.segment_size,
        "frames": frames,
        "records": found.records,
        "payload_bytes": found.payload_bytes,
        "broken_blanks": found.broken_blanks.len(),
    })
}

fn comparison_text(found: &Comparison) -> String {
    let rows: Vec<Vec<String>> = found
        .replicas
        .iter()
        .map(|(dir, tail, commit)| {
            vec![dir.display().to_string(), tail.index.to_string(), tail.end().to_string(), commit.to_string()]
        })
        .collect();
    let mut text = table(&["REPLICA", "LAST ENTRY", "LOG END", "COMMITTED"], &rows);
    let range = format!("log positions {} to {} (up to entry {})", found.from, found.to, found.commit_index);
    let _ = match &found.difference {
        None => write!(text, "\nequal: {range}"),
        Some(difference) => {
            let byte = |byte: Option<u8>| byte.map_or("nothing".to_owned(), |byte| format!("{byte:02x}"));
            let index = difference.index.map_or("an unknown entry".to_owned(), |index| format!("entry {index}"));
            write!(
                text,
                "\nDIFFERENT at log position {} ({index}): {} has {} at byte {}, {} has {}; compared {range}",
                difference.pos,
                difference.one.display(),
                byte(difference.bytes.0),
                difference.offset,
                difference.other.display(),
                byte(difference.bytes.1),
            )
        }
    };
    text
}

fn comparison_json(found: &Comparison) -> serde_json::Value {
    let replicas: Vec<_> = found
        .replicas
        .iter()
        .map(|(dir, tail, commit)| {
            json!({"dir": dir, "last_index": tail.index, "last_end": tail.end().0, "commit_index": commit})
        })
        .collect();
    let difference = found.difference.as_ref().map(|difference| {
        json!({
            "pos": difference.pos.0,
            "index": difference.index,
            "one": difference.one,
            "other": difference.other,
            "offset": difference.offset,
        })
    });
    json!({
        "equal": found.equal(),
        "from": found.from.0,
        "to": found.to.0,
        "commit_index": found.commit_index,
        "replicas": replicas,
        "difference": difference,
    })
}

fn dump(fs: &Arc<dyn Fs>, dir: &std::path::Path, from: u64, limit: u64, as_json: bool) -> Result<()> {
    let mut left = limit;
    inspect::dump(fs, dir, from, &mut |dumped| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        let (frame, at) = (dumped.frame, dumped.frame.at);
        if as_json {
            say(json!({
                "index": at.index,
                "term": at.term,
                "kind": kind_name(frame.kind),
                "records": frame.records,
                "pos": at.pos.0,
                "len": at.len,
                "payload_len": frame.payload.len(),
                "segment": dumped.segment,
                "offset": dumped.offset,
            }));
        } else {
            let preview: String = frame.payload.iter().take(PREVIEW_BYTES).map(|byte| format!("{byte:02x}")).collect();
            let more = if frame.payload.len() > PREVIEW_BYTES { "…" } else { "" };
            say(format_args!(
                "entry {} term {} {} at {} ({} byte {}) {} records, {} payload bytes: {preview}{more}",
                at.index,
                at.term,
                kind_name(frame.kind),
                at.pos,
                dumped.segment,
                dumped.offset,
                frame.records,
                frame.payload.len(),
            ));
        }
        ControlFlow::Continue(())
    })?;
    Ok(())
}

fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Messages => "messages",
        FrameKind::Noop => "no-op",
        FrameKind::ConfChange => "conf-change",
        FrameKind::ConfChangeV2 => "conf-change-v2",
        FrameKind::Command => "command",
        FrameKind::Blank => "blank",
        FrameKind::Transition => "transition",
    }
}
