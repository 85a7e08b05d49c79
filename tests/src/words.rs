//! Tag, keys and a user property that the peers give to messages when they are told `--words 1`: outside of ASCII on
//! purpose, with one character that is two UTF-16 units. `Words.java` and `words.go` say the same.

use anyhow::{Result, ensure};

use crate::history::Event;

/// A subscription that lets even messages through, as a client would write it.
pub const EVEN_ONLY: &str = "偶数 || 其他";

/// Demands that a delivered message carries what its producer said. Other events pass.
///
/// # Errors
/// When it does not.
pub fn check(event: &Event) -> Result<()> {
    let Event::Deliver { id, tag, keys, user, .. } = event else { return Ok(()) };
    ensure!(tag.as_deref() == Some(if is_even(id) { "偶数" } else { "奇数" }), "another tag: {event:?}");
    ensure!(keys.as_deref() == Some(&*format!("ключ-{id} каждый")), "other keys: {event:?}");
    ensure!(user.as_deref() == Some(&*format!("{id} ☃ 😀")), "another user property: {event:?}");
    Ok(())
}

/// Whether the message of this id is one that [`EVEN_ONLY`] lets through.
pub fn is_even(id: &str) -> bool {
    id.rsplit('-').next().and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| number.is_multiple_of(2))
}
