//! Who gets the next slot, played through in milliseconds, and by threads.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// What one worker of a stage does over and over: calls of this length with pauses between them.
#[derive(Clone, Copy)]
struct Habit {
    stage: usize,
    call: u32,
    pause: u32,
    begins: u32,
}

enum State {
    Pausing { until: u32 },
    Waiting,
    Running { left: u32 },
}

/// Plays the habits on so many slots, a millisecond at a time, each look after one; gives the milliseconds that each worker ran.
fn play(slots: usize, habits: &[Habit], duration: u32) -> Vec<u32> {
    let mut queue: Queue<usize> = Queue::new(slots);
    let stages = habits.iter().map(|habit| habit.stage).max().unwrap_or(0);
    for stage in 0..=stages {
        assert_eq!(queue.stage(&stage.to_string()), stage);
    }
    let begin = |habit: &Habit| State::Pausing { until: habit.begins };
    let mut states: Vec<State> = habits.iter().map(begin).collect();
    let mut left: Vec<u32> = habits.iter().map(|habit| habit.call).collect();
    let mut ran = vec![0; habits.len()];
    for now in 0..duration {
        for worker in 0..habits.len() {
            if matches!(states[worker], State::Pausing { until } if until <= now) {
                left[worker] = habits[worker].call;
                states[worker] = match queue.arrive(habits[worker].stage, || worker) {
                    true => State::Running { left: left[worker] },
                    false => State::Waiting,
                };
            }
        }
        let running: Vec<usize> = (0..habits.len())
            .filter(|worker| matches!(states[*worker], State::Running { .. }))
            .collect();
        assert!(running.len() <= slots, "no more run than there are slots");
        let waits = states.iter().any(|state| matches!(state, State::Waiting));
        assert!(running.len() == slots || !waits, "no slot is free while somebody waits");
        for worker in running {
            ran[worker] += 1;
            let State::Running { left: rest } = &mut states[worker] else {
                continue;
            };
            *rest -= 1;
            left[worker] = *rest;
            let next = if *rest == 0 {
                states[worker] = State::Pausing {
                    until: now + 1 + habits[worker].pause,
                };
                queue.leave(habits[worker].stage, MS)
            } else {
                match queue.look(habits[worker].stage, MS, || worker) {
                    Turn::GoesOn => None,
                    Turn::GivesUp(next) => {
                        states[worker] = State::Waiting;
                        next
                    }
                }
            };
            if let Some(next) = next {
                states[next] = State::Running { left: left[next] };
            }
        }
    }
    ran
}

fn busy(stage: usize, call: u32) -> Habit {
    Habit {
        stage,
        call,
        pause: 0,
        begins: 0,
    }
}

#[track_caller]
fn within(found: u32, wanted: std::ops::RangeInclusive<u32>) {
    assert!(wanted.contains(&found), "{found} is not within {wanted:?}");
}

#[test]
fn stages_share_the_slots_alike_however_long_their_calls_are() {
    let ran = play(1, &[busy(0, 1_000), busy(1, 1), busy(2, 30)], 3_000);
    ran.into_iter().for_each(|ran| within(ran, 980..=1_020));
}

#[test]
fn more_workers_are_no_larger_share() {
    let mut habits = vec![busy(0, 1_000); 8];
    habits.push(busy(1, 1_000));
    let ran = play(1, &habits, 4_000);
    within(ran[8], 1_980..=2_020);
    let ran = play(2, &habits, 4_000);
    within(ran[8], 3_980..=4_000);
}

#[test]
fn within_a_stage_who_came_first_is_first() {
    let mut queue: Queue<usize> = Queue::new(1);
    let stage = queue.stage("s");
    assert!(queue.arrive(stage, || 0));
    for ticket in 1..4 {
        assert!(!queue.arrive(stage, || ticket));
    }
    assert_eq!(
        queue.look(stage, MS * 100, || 9),
        Turn::GoesOn,
        "a stage is never ahead of itself"
    );
    let order: Vec<_> = (0..4).map(|_| queue.leave(stage, MS)).collect();
    assert_eq!(order, [Some(1), Some(2), Some(3), None]);
}

#[test]
fn a_stage_that_was_idle_saves_up_nothing() {
    let late = Habit {
        begins: 10_000,
        ..busy(1, 1_000)
    };
    let ran = play(1, &[busy(0, 10), late], 11_000);
    within(ran[1], 480..=520);
}

#[test]
fn a_stage_that_was_alone_owes_nothing_to_those_who_come_between_its_calls() {
    let mut queue: Queue<usize> = Queue::new(1);
    let (old, new) = (queue.stage("old"), queue.stage("new"));
    assert!(queue.arrive(old, || 0));
    assert_eq!(queue.leave(old, MS * 3_600_000), None);
    // Nobody is active at this moment.
    assert!(queue.arrive(new, || 1));
    assert!(!queue.arrive(old, || 0));
    assert_eq!(queue.look(new, MS * 9, || 1), Turn::GoesOn);
    assert_eq!(queue.look(new, MS * 3, || 1), Turn::GivesUp(Some(0)));
}

#[test]
fn short_calls_with_pauses_get_as_much_as_they_ask_for() {
    let light = Habit { pause: 4, ..busy(1, 1) };
    let ran = play(1, &[busy(0, 1_000), light], 5_000);
    // It asks for a fifth, which is less than its share.
    within(ran[1], 600..=1_000);
}

#[test]
fn nobody_starves() {
    let habits: Vec<Habit> = (0..20).map(|stage| busy(stage, 1 + 50 * (stage as u32 % 5))).collect();
    let ran = play(2, &habits, 20_000);
    ran.into_iter().for_each(|ran| within(ran, 1_950..=2_050));
}

#[test]
fn threads_get_their_shares_and_never_more_slots_than_there_are() {
    use std::sync::atomic::AtomicUsize;
    let slots = Slots::new(1, || {});
    let (seated, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |share: Share, ended: &AtomicBool| {
        let seat = Seat::new(share);
        let began = thread_cpu_time();
        while !ended.load(Ordering::Relaxed) {
            let sitting = seat.sit(thread_cpu_time());
            let call = thread_cpu_time();
            while thread_cpu_time() < call + MS * 3 {
                most.fetch_max(1 + seated.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                seated.fetch_sub(1, Ordering::SeqCst);
                seat.look(thread_cpu_time());
            }
            drop(sitting);
        }
        thread_cpu_time() - began
    };
    let ended = AtomicBool::new(false);
    let (many, one) = std::thread::scope(|scope| {
        let many: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| work(slots.share("many"), &ended)))
            .collect();
        let one = scope.spawn(|| {
            let one = Seat::new(slots.share("one"));
            let mut used = Duration::ZERO;
            while used < MS * 150 {
                let begin = thread_cpu_time();
                let sitting = one.sit(begin);
                while thread_cpu_time() < begin + MS * 5 {
                    one.look(thread_cpu_time());
                }
                drop(sitting);
                used += thread_cpu_time() - begin;
            }
            ended.store(true, Ordering::Relaxed);
            used
        });
        let one = one.join().unwrap();
        let many: Duration = many.into_iter().map(|thread| thread.join().unwrap()).sum();
        (many, one)
    });
    assert_eq!(most.into_inner(), 1, "one slot");
    let share = one.as_secs_f64() / (one + many).as_secs_f64();
    assert!(
        (0.35..0.65).contains(&share),
        "one of two stages ran for {share} of the time"
    );
    let queue = slots.queue.lock().unwrap();
    assert_eq!((queue.free, queue.waiting), (1, 0), "all slots came back");
}

#[test]
fn a_stage_is_crowded_when_more_of_its_calls_wait_than_there_are_slots() {
    let mut queue: Queue<u32> = Queue::new(2);
    let (mine, other) = (queue.stage("mine"), queue.stage("other"));
    for ticket in 0..4 {
        queue.arrive(mine, || ticket);
        assert!(!queue.is_crowded(mine), "{ticket}");
    }
    queue.arrive(mine, || 4);
    assert!(queue.is_crowded(mine) && !queue.is_crowded(other));
}

#[test]
fn who_has_used_less_is_lent_a_slot_and_who_is_ahead_pays_it_back() {
    let mut queue: Queue<&str> = Queue::new(1);
    let (stuck, other, quick) = (queue.stage("stuck"), queue.stage("other"), queue.stage("quick"));
    assert!(queue.arrive(stuck, || "stuck"));
    assert!(!queue.arrive(other, || "other"));
    assert_eq!(queue.borrow(other), None, "nobody is ahead of it yet");
    queue.charge(stuck, MS * 20);
    assert!(!queue.arrive(quick, || "quick"));
    assert_eq!(queue.borrow(quick), None, "another has used as little");
    assert_eq!(queue.borrow(other), Some("other"));
    assert_eq!(queue.borrow(quick), None, "as many are lent as there are");
    // The one who was stuck looks at last.
    assert_eq!(queue.look(stuck, MS * 50, || "stuck"), Turn::GivesUp(None));
    assert_eq!(queue.leave(other, MS), Some("quick"));
    assert_eq!(queue.leave(quick, MS), Some("stuck"));
    assert_eq!(queue.leave(stuck, MS), None);
    assert_eq!((queue.free, queue.lent, queue.waiting), (1, 0, 0));
}

#[test]
fn a_loan_ends_with_the_call_that_it_was_for() {
    let mut queue: Queue<&str> = Queue::new(2);
    let (stuck, quick) = (queue.stage("stuck"), queue.stage("quick"));
    assert!(queue.arrive(stuck, || "a") && queue.arrive(stuck, || "b"));
    queue.charge(stuck, MS * 20);
    assert!(!queue.arrive(stuck, || "c") && !queue.arrive(quick, || "quick"));
    assert_eq!(queue.borrow(stuck), None, "nobody borrows to get further ahead");
    assert_eq!(queue.borrow(quick), Some("quick"));
    assert_eq!(queue.leave(quick, MS), None);
    assert_eq!(queue.leave(stuck, MS), Some("c"));
    assert_eq!((queue.free, queue.lent, queue.waiting), (0, 0, 0));
}
