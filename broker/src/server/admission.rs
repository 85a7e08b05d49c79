//! The budget of request bytes: what was read from clients and is not answered yet, over all connections of a node.
//!
//! A connection claims bytes as they arrive, never on the word of an announced length, so that peers that announce much and
//! send little hold nothing. The claim travels with the request and ends when its answer is on the way. Who finds the budget
//! spent waits shortly (TCP pushes back meanwhile) and is then refused at once: no request times out in silence.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request may wait for room before it is answered SYSTEM_BUSY: RocketMQ's own limit for its send queue.
pub const ADMISSION_WAIT: Duration = Duration::from_millis(200);

/// Bytes per unit of the semaphore, which counts in 32 bits.
const UNIT: usize = 64;

/// The node's budget. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
}

/// Bytes held by one request; given back when dropped.
#[derive(Debug, Default)]
pub struct Claim {
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
}

impl Claim {
    /// Bytes that the claim covers.
    pub fn bytes(&self) -> usize {
        self.units as usize * UNIT
    }

    /// Units that it lacks to cover `bytes`, if any.
    fn missing(&self, bytes: usize) -> Option<u32> {
        (bytes.div_ceil(UNIT) as u32).checked_sub(self.units).filter(|more| *more > 0)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit, units: u32) {
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        self.units += units;
    }
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { units: Arc::new(Semaphore::new(bytes / UNIT)) }
    }

    /// Makes `claim` cover at least `bytes`, if there is room now; else the claim stays as it was.
    pub fn try_grow(&self, claim: &mut Claim, bytes: usize) -> bool {
        let Some(more) = claim.missing(bytes) else { return true };
        let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(more) else { return false };
        claim.add(permit, more);
        true
    }

    /// Makes `claim` cover at least `bytes`. False when there was no room for [`ADMISSION_WAIT`]; the claim is then as it was.
    pub async fn grow(&self, claim: &mut Claim, bytes: usize) -> bool {
        if self.try_grow(claim, bytes) {
            return true;
        }
        let Some(more) = claim.missing(bytes) else { return true };
        let waited = tokio::time::timeout(ADMISSION_WAIT, Arc::clone(&self.units).acquire_many_owned(more)).await;
        let Ok(Ok(permit)) = waited else { return false };
        claim.add(permit, more);
        true
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spent budget must refuse, and a dropped claim must give everything back, or the node would refuse forever.
    #[tokio::test(start_paused = true)]
    async fn a_spent_budget_refuses_and_recovers() {
        let budget = Budget::new(1024);
        let mut first = Claim::default();
        assert!(budget.grow(&mut first, 100).await);
        assert!(budget.grow(&mut first, 1000).await);
        assert_eq!(first.bytes(), 1024);
        let mut second = Claim::default();
        assert!(!budget.grow(&mut second, 1).await);
        drop(first);
        assert!(budget.grow(&mut second, 1).await);
        drop(second);
        assert_eq!(budget.free_bytes(), 1024);
    }
}
