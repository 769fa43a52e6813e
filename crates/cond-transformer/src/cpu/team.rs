//! Threads that work through the phases of one program together.
//!
//! A token of a small model is some hundred phases of some ten microseconds: too short
//! to hand each to a pool and wait. So the threads stay together for a whole pass, and
//! meet by spinning.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Rounds of spinning before a thread that waits lets others run: more threads than
/// processors must not wait for each other's time slices.
const PATIENCE: usize = 4000;

/// What the members share.
#[derive(Default)]
struct Meeting {
    /// Members, as soon as it is known.
    size: AtomicUsize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    /// The next task of the phase.
    next: AtomicUsize,
    /// A member panicked: nobody must wait for it.
    broken: AtomicBool,
}

/// One of the threads at work on a program.
pub(crate) struct Member<'a>(&'a Meeting);

impl Member<'_> {
    /// Does tasks `0..count` with the others, whoever is free the next, and waits until
    /// all are done.
    pub(crate) fn share(&self, count: usize, mut task: impl FnMut(usize)) {
        loop {
            let next = self.0.next.fetch_add(1, Ordering::Relaxed);
            if next >= count {
                break;
            }
            task(next);
        }
        self.meet();
    }

    /// Waits until all members are here; the last makes ready the next phase.
    fn meet(&self) {
        let meeting = self.0;
        let round = meeting.round.load(Ordering::Acquire);
        let size = meeting.size.load(Ordering::Acquire);
        if meeting.arrived.fetch_add(1, Ordering::AcqRel) + 1 == size {
            meeting.arrived.store(0, Ordering::Relaxed);
            meeting.next.store(0, Ordering::Relaxed);
            meeting.round.store(round + 1, Ordering::Release);
            return;
        }
        self.wait(|| meeting.round.load(Ordering::Acquire) != round);
    }

    fn wait(&self, done: impl Fn() -> bool) {
        let mut rounds = 0;
        while !done() {
            assert!(!self.0.broken.load(Ordering::Acquire), "another thread panicked");
            rounds += 1;
            if rounds < PATIENCE {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

/// Runs `program` on up to `threads` threads at once, this one among them. Every member
/// must go through the same phases.
pub(crate) fn run(threads: usize, program: impl Fn(&Member) + Sync) {
    let meeting = Meeting::default();
    if threads <= 1 {
        meeting.size.store(1, Ordering::Release);
        return program(&Member(&meeting));
    }
    thread::scope(|scope| {
        // If this thread panics before the size is known, the others must not wait.
        let own = Member(&meeting);
        let mut size = 1;
        for _ in 1..threads {
            let work = || {
                let member = Member(&meeting);
                member.wait(|| meeting.size.load(Ordering::Acquire) > 0);
                program(&member);
            };
            // Without another thread the others do its part.
            if thread::Builder::new().spawn_scoped(scope, work).is_ok() {
                size += 1;
            }
        }
        meeting.size.store(size, Ordering::Release);
        program(&own);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_and_phases_follow_each_other() {
        const TASKS: usize = 37;
        for threads in [1, 2, 5] {
            let counts: Vec<_> = (0..TASKS).map(|_| AtomicUsize::new(0)).collect();
            run(threads, |member| {
                for phase in 0..200 {
                    member.share(TASKS, |task| {
                        let other = counts[(task + phase) % TASKS].load(Ordering::Relaxed);
                        assert!((phase..=phase + 1).contains(&other), "a phase began too early");
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 200));
        }
    }

    #[test]
    fn a_panic_of_one_ends_all() {
        let result = std::panic::catch_unwind(|| {
            run(3, |member| {
                member.share(3, |task| assert!(task != 1, "on purpose"));
                member.share(3, |_| ());
            });
        });
        assert!(result.is_err());
    }
}
