//! Which version of its plugin a stage runs: published by one thread, taken by each worker between two batches.
//!
//! A publication has a number that rises, so a worker sees by one atomic load whether there is a newer one. All workers of a process look before
//! every batch, so a partition that moves from one to another never meets an older version again. The version before is
//! kept: a new one whose first records fail too often gives way to it at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{PluginConfig, Share};
use crate::metrics::PluginMetrics;
use crate::plugin::component::Plugin;
use crate::plugin::instance::{Executor, Instance};
use crate::route::Routes;

/// A plugin that fits its stage, with all that depends on it.
pub(crate) struct Version {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) metrics: Arc<PluginMetrics>,
    /// What it is configured with.
    pub(crate) config: PluginConfig,
    /// Configured instances, made before the version was published, so that no worker has to wait for its first one.
    pub(crate) spares: Mutex<Vec<Instance>>,
}

impl Version {
    /// An instance that is there already.
    pub(crate) fn spare(&self, executor: &Arc<Executor>) -> Option<Instance> {
        let mut spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        spare.adopt(Arc::clone(executor));
        Some(spare)
    }
}

/// A version that workers may run, and how its records went. `V` is what a version is; here [`Version`].
pub(crate) struct Publication<V> {
    pub(crate) number: u64,
    pub(crate) version: Arc<V>,
    counts: Counts,
}

impl<V> Publication<V> {
    fn new(number: u64, version: Arc<V>, trial: Option<Trial>) -> Arc<Self> {
        let counts = Counts {
            trial,
            ..Counts::default()
        };
        Arc::new(Self {
            number,
            version,
            counts,
        })
    }

    pub(crate) fn passed(&self, records: u64) {
        self.counts.passed.fetch_add(records, Ordering::Relaxed);
    }

    /// A record has failed. True: too many of the first ones have.
    pub(crate) fn failed(&self) -> bool {
        self.counts.failed()
    }
}

/// What the first records of a new version are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trial {
    failures_max: u64,
    records: u64,
}

#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    failed: AtomicU64,
    trial: Option<Trial>,
}

impl Counts {
    fn failed(&self) -> bool {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        let records = failed + self.passed.load(Ordering::Relaxed);
        self.trial
            .is_some_and(|trial| records <= trial.records && failed > trial.failures_max)
    }

    /// What a version that comes after this one is held to: the share, and on top of it what fails anyway.
    fn trial_of_next(&self, share: Share) -> Trial {
        let (passed, failed) = (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let of = u64::from(share.of);
        let usual = (failed * of).checked_div(passed + failed).unwrap_or(0);
        Trial {
            failures_max: u64::from(share.failures) + usual,
            records: of,
        }
    }
}

/// A version that gave way to the one before.
pub(crate) struct RolledBack<V> {
    pub(crate) from: Arc<V>,
    pub(crate) to: Arc<V>,
    pub(crate) reason: String,
}

struct Publications<V> {
    current: Arc<Publication<V>>,
    previous: Option<Arc<V>>,
    /// A rollback that has not been recorded yet.
    rolled_back: Option<RolledBack<V>>,
}

/// What a stage runs now.
pub(crate) struct Current<V> {
    number: AtomicU64,
    publications: Mutex<Publications<V>>,
}

impl<V> Current<V> {
    pub(crate) fn new(version: Arc<V>) -> Arc<Self> {
        Arc::new(Self {
            number: AtomicU64::new(1),
            publications: Mutex::new(Publications {
                current: Publication::new(1, version, None),
                previous: None,
                rolled_back: None,
            }),
        })
    }

    fn publications(&self) -> MutexGuard<'_, Publications<V>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something newer than `number` is published.
    pub(crate) fn is_newer_than(&self, number: u64) -> bool {
        self.number.load(Ordering::Acquire) != number
    }

    pub(crate) fn get(&self) -> Arc<Publication<V>> {
        Arc::clone(&self.publications().current)
    }

    fn put(&self, publications: &mut Publications<V>, version: Arc<V>, trial: Option<Trial>) {
        let number = publications.current.number + 1;
        let before = std::mem::replace(&mut publications.current, Publication::new(number, version, trial));
        publications.previous = Some(Arc::clone(&before.version));
        self.number.store(number, Ordering::Release);
    }

    /// Gives a version to the workers. With `share`, it is on trial. Returns a rollback that came before it and was not taken yet.
    pub(crate) fn publish(&self, version: Arc<V>, share: Option<Share>) -> Option<RolledBack<V>> {
        let mut publications = self.publications();
        let trial = share.map(|share| publications.current.counts.trial_of_next(share));
        self.put(&mut publications, version, trial);
        publications.rolled_back.take()
    }

    /// Goes back to the version before the publication `number`. False: something else is published by now, or there is none before.
    pub(crate) fn roll_back(&self, number: u64, reason: String) -> bool {
        let mut publications = self.publications();
        let Some(to) = publications
            .previous
            .clone()
            .filter(|_| publications.current.number == number)
        else {
            return false;
        };
        let from = Arc::clone(&publications.current.version);
        self.put(&mut publications, Arc::clone(&to), None);
        // The version that failed is not what a further rollback should find.
        publications.previous = None;
        publications.rolled_back = Some(RolledBack { from, to, reason });
        true
    }

    /// A rollback that happened since the last call.
    pub(crate) fn take_rolled_back(&self) -> Option<RolledBack<V>> {
        self.publications().rolled_back.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { failures: 2, of: 10 };

    /// Lets `records` go through what is published, true for one that passes; tells at which one it is given up.
    fn given_up_at(current: &Current<&str>, records: &[bool]) -> Option<usize> {
        let publication = current.get();
        records.iter().position(|passes| {
            if *passes {
                publication.passed(1);
                return false;
            }
            publication.failed()
        })
    }

    #[test]
    fn workers_see_a_newer_publication_by_its_number() {
        let current = Current::new(Arc::new("a"));
        let first = current.get();
        assert!(!current.is_newer_than(first.number));
        current.publish(Arc::new("b"), None);
        assert!(current.is_newer_than(first.number));
        let second = current.get();
        assert_eq!((*second.version, second.number > first.number), ("b", true));
    }

    #[test]
    fn a_new_version_may_fail_as_often_as_its_share_allows() {
        let current = Current::new(Arc::new("a"));
        current.publish(Arc::new("b"), Some(SHARE));
        assert_eq!(given_up_at(&current, &[false, false, true, true]), None);
        assert_eq!(given_up_at(&current, &[false]), Some(0));
    }

    #[test]
    fn what_fails_behind_the_first_records_is_not_the_trial_s() {
        let current = Current::new(Arc::new("a"));
        current.publish(Arc::new("b"), Some(SHARE));
        let records = [&[true; 8][..], &[false; 20]].concat();
        assert_eq!(given_up_at(&current, &records), None);
    }

    #[test]
    fn what_failed_before_is_not_held_against_the_new_version() {
        let current = Current::new(Arc::new("a"));
        let half = [true, false].repeat(50);
        assert_eq!(given_up_at(&current, &half), None);
        current.publish(Arc::new("b"), Some(SHARE));
        assert_eq!(given_up_at(&current, &[false; 7]), None);
        assert_eq!(given_up_at(&current, &[false]), Some(0));
    }

    #[test]
    fn a_version_is_rolled_back_once_and_only_while_it_runs() {
        let current = Current::new(Arc::new("a"));
        assert!(!current.roll_back(1, "nothing before".to_owned()));
        current.publish(Arc::new("b"), Some(SHARE));
        let number = current.get().number;
        assert!(current.roll_back(number, "fails".to_owned()));
        assert!(!current.roll_back(number, "again".to_owned()));
        assert_eq!(*current.get().version, "a");
        assert!(current.is_newer_than(number));
        let told = current.take_rolled_back().unwrap();
        assert_eq!((*told.from, *told.to, told.reason.as_str()), ("b", "a", "fails"));
        assert!(current.take_rolled_back().is_none());
    }
}
