//! The leader rule: who may be shown as brokerId 0 of a broker name.
//!
//! [`crate::route_table`] asks it at every registration with brokerId 0 and tells it when the holder expired or changed its role.
//! It knows one thing per broker name: the address that holds id 0, on whose word. There is one such place, so there are never
//! two leaders; it must never look at a clock or at followers, whose terms say nothing about who leads.

use uuid::Uuid;

/// The identity and epoch in which a broker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// The Raft group; `None` for a broker that is none.
    pub group: Option<Uuid>,
    /// The Raft term; for a broker without a group the `stateVersion` of its data version, RocketMQ's own epoch.
    pub term: u64,
}

/// The holder of brokerId 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its address as advertised.
    pub addr: String,
    /// Its last accepted claim.
    pub epoch: Epoch,
}

/// Why brokerId 0 was not given away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    /// Another group, or a broker without one, while the holder lives.
    #[error(
        "brokerId 0 is held by {holder} of group {held}, and the claim is of group {claimed}; it is free once the holder has expired"
    )]
    OtherGroup {
        /// Who holds it.
        holder: String,
        /// Its group.
        held: GroupName,
        /// The claim's group.
        claimed: GroupName,
    },
    /// The claim is older than one that was accepted from the same group.
    #[error("a leader of term {known} has registered, the claim is of term {claimed}")]
    TermBehind {
        /// The highest term accepted from the group.
        known: u64,
        /// The claim's term.
        claimed: u64,
    },
}

/// A group in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupName(pub Option<Uuid>);

impl std::fmt::Display for GroupName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(group) => write!(f, "{group}"),
            None => f.write_str("(none)"),
        }
    }
}

/// What an accepted claim changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The former holder's address, when it was another one.
    pub deposed: Option<String>,
    /// Whether anything that a client could see changed: the address or the epoch.
    pub changed: bool,
}

/// brokerId 0 of one broker name.
#[derive(Debug, Clone, Default)]
pub struct LeaderSlot {
    holder: Option<Holder>,
    /// The last group that held the place and its highest accepted term. Outlives the holder, so that a leader that was cut off
    /// and comes back after its successor expired still cannot take the place.
    highest: Option<(Uuid, u64)>,
}

impl LeaderSlot {
    /// A free place that remembers which group held it last, and up to which term.
    pub fn remembering(highest: Option<(Uuid, u64)>) -> Self {
        Self { holder: None, highest }
    }

    /// The last group that held the place and its highest accepted term.
    pub fn highest(&self) -> Option<(Uuid, u64)> {
        self.highest
    }

    /// Who holds the place.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Whether `addr` holds the place.
    pub fn is_held_by(&self, addr: &str) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.addr == addr)
    }

    /// A registration of `addr` with brokerId 0. The holder that this meets is alive: the caller expires the dead first.
    ///
    /// # Errors
    /// [`ClaimRefused`]; nothing has changed then.
    pub fn claim(&mut self, addr: &str, epoch: Epoch) -> Result<Taken, ClaimRefused> {
        if let Some(holder) = &self.holder {
            if holder.epoch.group != epoch.group {
                return Err(ClaimRefused::OtherGroup {
                    holder: holder.addr.clone(),
                    held: GroupName(holder.epoch.group),
                    claimed: GroupName(epoch.group),
                });
            }
            // Without a group there is no election: only another address needs the higher epoch, as in RocketMQ's own rule.
            if epoch.group.is_none() && holder.addr != addr && epoch.term < holder.epoch.term {
                return Err(ClaimRefused::TermBehind { known: holder.epoch.term, claimed: epoch.term });
            }
        }
        if let (Some(group), Some((known_group, known))) = (epoch.group, self.highest)
            && group == known_group
            && epoch.term < known
        {
            return Err(ClaimRefused::TermBehind { known, claimed: epoch.term });
        }
        if let Some(group) = epoch.group {
            self.highest = Some((group, epoch.term));
        }
        let new = Holder { addr: addr.to_owned(), epoch };
        let old = self.holder.replace(new.clone());
        let changed = old.as_ref() != Some(&new);
        Ok(Taken { changed, deposed: old.map(|holder| holder.addr).filter(|old| old != addr) })
    }

    /// Frees the place if `addr` holds it: it expired, left, or registered as a follower. Returns whether it did.
    pub fn release(&mut self, addr: &str) -> bool {
        let held = self.is_held_by(addr);
        if held {
            self.holder = None;
        }
        held
    }
}

#[cfg(test)]
mod tests;
