//! What all requests together may hold in memory.
//!
//! A request holds more as its body comes in, so that a client which sends slowly holds only what it has sent. Whoever finds no
//! room is refused at once: waiting would hold memory, too.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const KIB: usize = 1 << 10;

/// The budget. Its unit is 1 KiB.
pub(super) struct Memory {
    free: Arc<Semaphore>,
    total: u32,
}

/// What one request holds; given back when dropped.
pub(super) struct Held {
    free: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / KIB as u64).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Whether so much is free at this moment.
    pub(super) fn has(&self, bytes: usize) -> bool {
        self.free.available_permits() >= bytes.div_ceil(KIB)
    }

    /// The share of a request that holds nothing yet.
    pub(super) fn share(&self) -> Held {
        Held {
            free: Arc::clone(&self.free),
            permit: None,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        (self.total as usize - self.free.available_permits()) * KIB
    }

    /// Waits until nobody holds anything.
    pub(super) async fn all_given_back(&self) {
        // The semaphore is never closed, so this does not fail.
        let _ = self.free.acquire_many(self.total).await;
    }
}

impl Held {
    /// Holds at least so much from now on; false, and as much as before, where there is no room.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(KIB).saturating_sub(held);
        if more == 0 {
            return true;
        }
        let Ok(more) = u32::try_from(more) else { return false };
        let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(more) else {
            return false;
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_held_than_there_is_and_all_comes_back() {
        let memory = Memory::new(4 * KIB as u64);
        let (mut one, mut other) = (memory.share(), memory.share());
        assert!(one.grow(1) && one.grow(KIB) && one.grow(3 * KIB));
        assert!(!other.grow(KIB + 1) && other.grow(KIB));
        assert!(!one.grow(3 * KIB + 1) && !memory.has(1));
        assert_eq!(memory.held_bytes(), 4 * KIB);
        drop(one);
        assert!(memory.has(3 * KIB) && other.grow(4 * KIB));
        drop(other);
        memory.all_given_back().await;
        assert_eq!(memory.held_bytes(), 0);
    }
}
