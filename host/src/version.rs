//! Which version of its plugin a stage runs: published by one thread, taken by each worker between two calls.
//!
//! A publication has a number that rises, so a worker sees by one atomic load whether there is a newer one. All workers of a process look before
//! every call, so a partition that moves from one to another never meets an older version again. The version before is
//! kept: a new one whose first records fail too often gives way to it at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::{PluginConfig, Share};
use crate::metrics::PluginMetrics;
use crate::plugin::component::Plugin;
use crate::plugin::instance::{Executor, Instance};
use crate::route::Routes;

/// So many records tell how many fail anyway.
const USUAL_RECORDS_MIN: u64 = 100;

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

    /// Adds what a worker has committed, so that work that is rolled back and repeated counts once.
    pub(crate) fn committed(&self, tally: Tally) {
        self.counts.passed.fetch_add(tally.passed, Ordering::Relaxed);
        self.counts.failed.fetch_add(tally.failed, Ordering::Relaxed);
    }

    /// Whether too many of the first records have failed, with what a worker has not committed yet.
    pub(crate) fn is_failing(&self, tally: Tally) -> bool {
        self.counts.is_failing(tally)
    }

    /// Its first records are still counted.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.counts.is_on_trial()
    }
}

/// How records went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// What the first records of a new version are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// So many may fail,
    failures_max: u64,
    /// of the first so many.
    records: u64,
}

impl Trial {
    /// The share, and on top of it what failed with the version before, where that is known.
    fn new(share: Share, usual: Option<Tally>) -> Self {
        let Tally { passed, failed } = usual.unwrap_or_default();
        let of = u64::from(share.of);
        let usual = (failed * of).checked_div(passed + failed).unwrap_or(0);
        Self {
            failures_max: u64::from(share.failures) + usual,
            records: of,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    failed: AtomicU64,
    trial: Option<Trial>,
}

impl Counts {
    fn tally(&self) -> Tally {
        Tally {
            passed: self.passed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    fn is_failing(&self, own: Tally) -> bool {
        let committed = self.tally();
        let failed = committed.failed + own.failed;
        let records = committed.passed + own.passed + failed;
        // Only what is committed ends a trial, and an open transaction may hold far more than the first records: then it is their share that counts.
        self.is_on_trial()
            && self
                .trial
                .is_some_and(|trial| failed * trial.records > trial.failures_max * records.max(trial.records))
    }

    fn is_on_trial(&self) -> bool {
        let Tally { passed, failed } = self.tally();
        self.trial.is_some_and(|trial| passed + failed < trial.records)
    }

    /// What this version tells of what fails anyway; nothing while it is on trial itself, or after too few records.
    fn usual(&self) -> Option<Tally> {
        let tally = self.tally();
        let is_enough = tally.passed + tally.failed >= USUAL_RECORDS_MIN;
        (is_enough && !self.is_on_trial()).then_some(tally)
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
    /// How records went with a version that was no trial.
    usual: Option<Tally>,
    /// A rollback that has not been recorded yet.
    rolled_back: Option<RolledBack<V>>,
}

/// Told of a rollback before any worker runs the version before again: from which, to which, why.
pub(crate) type OnRollback<V> = Box<dyn Fn(&V, &V, &str) + Send + Sync>;

/// What a stage runs now.
pub(crate) struct Current<V> {
    number: AtomicU64,
    /// The number of the last publication that was rolled back.
    rolled_back: AtomicU64,
    publications: Mutex<Publications<V>>,
    on_rollback: OnRollback<V>,
}

impl<V> Current<V> {
    /// Begins with a version; `trial` where it was on trial when the last process ended, with the version to go back to.
    pub(crate) fn new(version: Arc<V>, trial: Option<(Trial, Arc<V>)>, on_rollback: OnRollback<V>) -> Arc<Self> {
        let (trial, previous) = trial.unzip();
        Arc::new(Self {
            number: AtomicU64::new(1),
            rolled_back: AtomicU64::new(0),
            publications: Mutex::new(Publications {
                current: Publication::new(1, version, trial),
                previous,
                usual: None,
                rolled_back: None,
            }),
            on_rollback,
        })
    }

    fn publications(&self) -> MutexGuard<'_, Publications<V>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something newer than `number` is published.
    pub(crate) fn is_newer_than(&self, number: u64) -> bool {
        self.number.load(Ordering::Acquire) != number
    }

    /// Whether the publication `number` had to give way.
    pub(crate) fn is_rolled_back(&self, number: u64) -> bool {
        self.rolled_back.load(Ordering::Acquire) == number
    }

    pub(crate) fn get(&self) -> Arc<Publication<V>> {
        Arc::clone(&self.publications().current)
    }

    fn put(&self, publications: &mut Publications<V>, version: Arc<V>, trial: Option<Trial>) {
        let number = publications.current.number + 1;
        let before = std::mem::replace(&mut publications.current, Publication::new(number, version, trial));
        publications.usual = before.counts.usual().or(publications.usual);
        publications.previous = Some(Arc::clone(&before.version));
        self.number.store(number, Ordering::Release);
    }

    /// What a version that is published next is held to.
    pub(crate) fn next_trial(&self, share: Share) -> Trial {
        let publications = self.publications();
        Trial::new(share, publications.current.counts.usual().or(publications.usual))
    }

    /// Gives a version to the workers. Returns a rollback that came before it and was not taken yet.
    pub(crate) fn publish(&self, version: Arc<V>, trial: Option<Trial>) -> Option<RolledBack<V>> {
        let mut publications = self.publications();
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
        (self.on_rollback)(&from, &to, &reason);
        self.rolled_back.store(number, Ordering::Release);
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

    fn current() -> Arc<Current<&'static str>> {
        Current::new(Arc::new("a"), None, Box::new(|_, _, _| {}))
    }

    /// Lets records go through what is published in transactions of one, true for one that passes; tells at which one it is given up.
    fn given_up_at(current: &Current<&str>, records: &[bool]) -> Option<usize> {
        let publication = current.get();
        records.iter().position(|passes| {
            let tally = Tally {
                passed: u64::from(*passes),
                failed: u64::from(!passes),
            };
            let is_failing = !passes && publication.is_failing(tally);
            publication.committed(tally);
            is_failing
        })
    }

    fn publish_on_trial(current: &Current<&'static str>) {
        let trial = current.next_trial(SHARE);
        current.publish(Arc::new("b"), Some(trial));
    }

    /// Half of the records of the version before failed.
    fn rejects_half(current: &Current<&str>) {
        assert_eq!(given_up_at(current, &[true, false].repeat(50)), None);
    }

    #[test]
    fn workers_see_a_newer_publication_by_its_number() {
        let current = current();
        let first = current.get();
        assert!(!current.is_newer_than(first.number));
        current.publish(Arc::new("b"), None);
        assert!(current.is_newer_than(first.number));
        let second = current.get();
        assert_eq!((*second.version, second.number > first.number), ("b", true));
    }

    #[test]
    fn a_new_version_may_fail_as_often_as_its_share_allows() {
        let current = current();
        assert_eq!(given_up_at(&current, &[true; 100]), None);
        publish_on_trial(&current);
        assert_eq!(given_up_at(&current, &[false, false, true, true]), None);
        assert_eq!(given_up_at(&current, &[false]), Some(0));
    }

    #[test]
    fn what_fails_behind_the_first_records_is_not_the_trial_s() {
        let current = current();
        assert_eq!(given_up_at(&current, &[true; 100]), None);
        publish_on_trial(&current);
        let records = [&[true; 10][..], &[false; 20]].concat();
        assert_eq!(given_up_at(&current, &records), None);
    }

    #[test]
    fn what_failed_before_is_not_held_against_the_new_version() {
        let current = current();
        rejects_half(&current);
        publish_on_trial(&current);
        assert_eq!(given_up_at(&current, &[false; 7]), None);
        assert_eq!(given_up_at(&current, &[false]), Some(0));
    }

    #[test]
    fn a_bad_version_on_trial_says_nothing_of_what_fails_anyway() {
        let current = current();
        assert_eq!(given_up_at(&current, &[true; 100]), None);
        publish_on_trial(&current);
        assert_eq!(given_up_at(&current, &[false, false]), None);
        publish_on_trial(&current);
        assert_eq!(given_up_at(&current, &[false, false, false]), Some(2));
    }

    #[test]
    fn a_few_records_tell_nothing_of_what_fails_anyway() {
        let current = current();
        assert_eq!(given_up_at(&current, &[false; 9]), None);
        publish_on_trial(&current);
        assert_eq!(given_up_at(&current, &[false; 3]), Some(2));
    }

    /// A transaction that is aborted and repeated, with more records in it than the trial has.
    #[test]
    fn what_is_not_committed_does_not_end_a_trial() {
        let current = current();
        assert_eq!(given_up_at(&current, &[true; 100]), None);
        publish_on_trial(&current);
        let publication = current.get();
        let open = |passed, failed| publication.is_failing(Tally { passed, failed });
        assert!(!open(5_000, 3));
        assert!(open(5_000, 1_500));
        assert!(open(0, 3));
    }

    #[test]
    fn a_version_is_rolled_back_once_and_only_while_it_runs() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let hear =
            move |from: &&str, to: &&str, reason: &str| telling.lock().unwrap().push(format!("{from} {to} {reason}"));
        let current = Current::new(Arc::new("a"), None, Box::new(hear));
        assert!(!current.roll_back(1, "nothing before".to_owned()));
        publish_on_trial(&current);
        let number = current.get().number;
        assert!(current.roll_back(number, "fails".to_owned()));
        assert!(current.is_rolled_back(number));
        assert!(!current.roll_back(number, "again".to_owned()));
        assert_eq!(*current.get().version, "a");
        assert!(current.is_newer_than(number));
        assert_eq!(*told.lock().unwrap(), ["b a fails"]);
        let rolled_back = current.take_rolled_back().unwrap();
        assert_eq!(
            (*rolled_back.from, *rolled_back.to, rolled_back.reason.as_str()),
            ("b", "a", "fails")
        );
        assert!(current.take_rolled_back().is_none());
    }

    #[test]
    fn a_trial_goes_on_after_a_restart() {
        let trial = Trial::new(SHARE, Some(Tally::default()));
        let current = Current::new(Arc::new("b"), Some((trial, Arc::new("a"))), Box::new(|_, _, _| {}));
        assert_eq!(given_up_at(&current, &[false; 3]), Some(2));
        assert!(current.roll_back(1, "fails".to_owned()));
        assert_eq!(*current.get().version, "a");
    }
}
