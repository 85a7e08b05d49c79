//! Why a replica cannot vouch for the end of its own log. Kept in the meta file; [`crate::group`] acts on it.

use std::fmt;

/// Reasons for which a replica abstains from elections until it has caught up with what it may have lost.
///
/// Each means the same: it may have acknowledged entries that it does not have any more. Whoever counts it among the
/// majority that holds them would be wrong, so it must not help to elect a leader that lacks them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Doubts(u64);

impl Doubts {
    /// No doubt: the replica votes.
    pub const NONE: Doubts = Doubts(0);
    /// The log was cut at a hole with frames behind it: a job torn by a power cut, or acknowledged data gone bad.
    pub const SUSPECT_TAIL: Doubts = Doubts(1);
    /// The machine has lost its page cache under a replica that answers before its syncs.
    pub const LOST_CACHE: Doubts = Doubts(2);
    /// The page cache showed frames that the disk did not have: a sync of the last run failed.
    pub const FAILED_SYNC: Doubts = Doubts(4);
    /// The state machine had applied more than the log still holds.
    pub const STATE_AHEAD: Doubts = Doubts(8);
    /// Bytes below the durable frame are damaged.
    pub const DAMAGE: Doubts = Doubts(16);

    /// Each reason with its words.
    const WORDS: [(Doubts, &'static str); 5] = [
        (Doubts::SUSPECT_TAIL, "suspect tail"),
        (Doubts::LOST_CACHE, "page cache lost"),
        (Doubts::FAILED_SYNC, "failed sync"),
        (Doubts::STATE_AHEAD, "state ahead of the log"),
        (Doubts::DAMAGE, "damaged log"),
    ];

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether `other` is among them.
    pub fn contains(self, other: Doubts) -> bool {
        self.0 & other.0 == other.0
    }

    /// These without `other`.
    #[must_use]
    pub fn without(self, other: Doubts) -> Doubts {
        Doubts(self.0 & !other.0)
    }

    /// As stored. A bit that this version has no words for is a doubt all the same.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The counterpart of [`Doubts::bits`].
    pub fn from_bits(bits: u64) -> Doubts {
        Doubts(bits)
    }
}

impl std::ops::BitOrAssign for Doubts {
    fn bitor_assign(&mut self, other: Doubts) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Doubts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut between = "";
        for (doubt, words) in Doubts::WORDS {
            if self.contains(doubt) {
                write!(f, "{between}{words}")?;
                between = ", ";
                rest = rest.without(doubt);
            }
        }
        if rest.is_none() { Ok(()) } else { write!(f, "{between}reason {:#x}", rest.0) }
    }
}
