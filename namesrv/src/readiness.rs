//! Whether "no such topic" can be said already.
//!
//! A name server starts empty. Until the brokers have reported, an unknown topic may well exist, and to say otherwise would make
//! clients drop their queues; so the answer is SYSTEM_ERROR, which they retry. Read by the route handlers; no clock in here.

/// For how long after the start the brokers are given, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grace {
    /// At least: time for every living broker's next heartbeat to be refused and its registration to follow.
    pub(crate) min_ms: u64,
    /// At most, whoever is missing then.
    pub(crate) max_ms: u64,
}

impl Grace {
    /// Whether the table can be believed, `age_ms` after the start: brokers have reported and each name has a leader, or the time
    /// is over.
    pub(crate) fn is_over(self, age_ms: u64, any_broker: bool, all_led: bool) -> bool {
        age_ms >= self.max_ms || (age_ms >= self.min_ms && any_broker && all_led)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Too early a "does not exist" makes clients drop queues; none at all would keep them waiting for ever.
    #[test]
    fn grace_ends_with_the_reports_or_in_time() {
        let grace = Grace { min_ms: 3, max_ms: 10 };
        assert!(!grace.is_over(2, true, true), "others may still report");
        assert!(grace.is_over(3, true, true));
        assert!(!grace.is_over(9, true, false), "a name without a leader has not told its topics");
        assert!(!grace.is_over(9, false, true));
        assert!(grace.is_over(10, false, true));
    }
}
