//! Tag, keys and user properties that the peers give to messages when they are told `--words 1`: outside of ASCII on
//! purpose, with one character that is two UTF-16 units. `Words.java` and `words.go` say the same.

use anyhow::{Result, ensure};

use crate::history::Event;

/// A subscription that lets even messages through, as a client would write it.
pub const EVEN_ONLY: &str = "偶数 || 其他";

/// An SQL92 expression over the properties of such messages, as a client would write it. [`passes_sql`] says the same.
pub const SQL: &str = "n BETWEEN 10 AND 1000000 AND n NOT IN ('12', '14') AND TAGS = '偶数' OR n = 3";

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
    number(id).is_some_and(|number| number.is_multiple_of(2))
}

/// Whether the message of this id is one that [`SQL`] lets through.
pub fn passes_sql(id: &str) -> bool {
    number(id).is_some_and(|n| n == 3 || (10..=1_000_000).contains(&n) && n.is_multiple_of(2) && n != 12 && n != 14)
}

/// The number of a message: the last part of its id.
fn number(id: &str) -> Option<u64> {
    id.rsplit('-').next()?.parse().ok()
}
