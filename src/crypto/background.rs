//! Threads for work that burns a processor for tens of milliseconds at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use crate::base::{Error, Result};

/// Starts a thread that yields to everything else in the process.
pub(super) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new()
        .name(name)
        .spawn(move || {
            lower_priority();
            work();
        })
        .map(drop)
        .map_err(|error| Error::internal("cannot start a background thread").source(error))
}

/// A few such threads that take one piece of work after the other, for work that is over sooner than a thread is
/// started. They end with the last clone of this.
#[derive(Clone)]
pub struct Crew(mpsc::Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

/// For so many times as long as its work took a thread rests, if others were at work meanwhile.
const REST: u32 = 3;
/// However long that was.
const LONGEST_REST: Duration = Duration::from_millis(250);

impl Crew {
    /// `others` counts what is to come first: a low priority leaves it the processors, but not the disk, nor a lock that
    /// both need. Where it counts up, one of the threads works at a time, and rests after it.
    pub fn start(name: &str, threads: usize, others: impl Fn() -> u64 + Clone + Send + 'static) -> Result<Self> {
        let (jobs, line) = mpsc::channel::<Job>();
        let (line, alone) = (Arc::new(Mutex::new(line)), Arc::new(Mutex::new(())));
        let first = others();
        for n in 0..threads.max(1) {
            let (line, alone, others) = (Arc::clone(&line), Arc::clone(&alone), others.clone());
            spawn(format!("{name}-{n}"), move || {
                let mut seen = first;
                // One waits for work at a time, and the others for their turn to.
                let next = || line.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    let before = others();
                    // Since this thread looked last.
                    let are_others = before != std::mem::replace(&mut seen, before);
                    let alone = are_others.then(|| alone.lock().unwrap_or_else(PoisonError::into_inner));
                    let began = Instant::now();
                    // Whoever waits for it is told by what it drops; the thread is there for the next.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                    drop(alone);
                    sleep(rest(began.elapsed(), before != others()));
                }
            })?;
        }
        Ok(Self(jobs))
    }

    /// Runs one piece of work on one of the threads. It is done to its end even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let ended = |error| Error::internal("a background thread has ended early").source(error);
        self.0
            .send(Box::new(move || {
                let _ = done.send(work());
            }))
            .map_err(|_| Error::internal("the background threads are gone"))?;
        answer.await.map_err(ended)
    }
}

fn rest(work: Duration, were_others: bool) -> Duration {
    if were_others { (work * REST).min(LONGEST_REST) } else { Duration::ZERO }
}

/// POSIX gives the nice value to the process, but Linux to each thread (setpriority(2), "C
/// library/kernel differences"), so that this slows the calling thread only. It is what keeps other
/// requests fast while every core is hashing a password.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // Refused only in odd sandboxes; the work is right without it, and merely less polite.
    let _ = rustix::process::nice(10).map(give_way_at_once);
}

/// A nice value says how much of a processor a thread gets, not when: since Linux 6.6 a thread that has begun its slice
/// of some milliseconds ends it first, and a request that wakes up waits for that. Only who asks for shorter slices is
/// let in before (the kernel's docs, "EEVDF Scheduler"; sched_setattr(2): `sched_runtime` of a `SCHED_BATCH` thread, since
/// Linux 6.12), so this asks for the longest there are: then everybody else's are. It does not get more of the processor
/// for that. Older kernels do not look at the number.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "sched_setattr has no safe binding; the kernel only reads what is on this stack")]
fn give_way_at_once(nice: i32) {
    #[allow(clippy::cast_possible_truncation, reason = "48 bytes")]
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    // SAFETY: all zeroes are a value of this struct of integers, which begins with its own size.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        attributes.size = SIZE;
        attributes.sched_policy = libc::SCHED_BATCH.cast_unsigned();
        attributes.sched_nice = nice;
        attributes.sched_runtime = LONGEST_SLICE;
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

/// Of what the kernel grants, in nanoseconds.
#[cfg(target_os = "linux")]
const LONGEST_SLICE: u64 = 100_000_000;

/// Elsewhere it would slow the whole process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_crew_goes_on_after_work_that_panics() {
        let crew = Crew::start("crew", 1, || 0).unwrap();
        assert!(crew.run(|| panic!("on purpose")).await.is_err());
        for n in 0..100 {
            assert_eq!(crew.clone().run(move || n * 2).await.unwrap(), n * 2);
        }
    }

    #[tokio::test]
    async fn a_crew_rests_after_work_in_which_others_were_there() {
        let count = Arc::new(AtomicU64::new(0));
        let others = Arc::clone(&count);
        let crew = Crew::start("crew", 1, move || others.load(Ordering::Relaxed)).unwrap();
        let work = Duration::from_millis(20);
        let ended = crew
            .run(move || {
                sleep(work);
                count.fetch_add(1, Ordering::Relaxed);
                Instant::now()
            })
            .await
            .unwrap();
        let rested = crew.run(move || ended.elapsed()).await.unwrap();
        assert!(rested >= work * REST, "{rested:?}");
    }

    #[tokio::test]
    async fn one_works_at_a_time_while_others_are_there() {
        let (count, at_work) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let crew = Crew::start("crew", 4, move || count.fetch_add(1, Ordering::Relaxed)).unwrap();
        let work = (0..20).map(|_| {
            let at_work = Arc::clone(&at_work);
            crew.run(move || {
                let others = at_work.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(2));
                at_work.fetch_sub(1, Ordering::SeqCst);
                others
            })
        });
        let met: Vec<u64> = futures::future::try_join_all(work).await.unwrap();
        assert_eq!(met, [0; 20]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn such_a_thread_gives_way_at_once_and_nobody_else_does() {
        fn attributes() -> libc::sched_attr {
            // SAFETY: the kernel fills in a struct of integers, and is told how long it is.
            #[allow(unsafe_code, reason = "sched_getattr has no safe binding")]
            unsafe {
                let mut found: libc::sched_attr = std::mem::zeroed();
                let code = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size_of_val(&found), 0);
                assert_eq!(code, 0);
                found
            }
        }
        let ours = attributes();
        let (tell, told) = mpsc::channel();
        spawn("background".to_owned(), move || tell.send(attributes()).unwrap()).unwrap();
        let theirs = told.recv().unwrap();
        assert_eq!(theirs.sched_nice, (ours.sched_nice + 10).min(19));
        assert_eq!(theirs.sched_policy, libc::SCHED_BATCH.cast_unsigned());
        // Zero before Linux 6.12.
        assert!([0, LONGEST_SLICE].contains(&theirs.sched_runtime), "{}", theirs.sched_runtime);
        let after = attributes();
        assert_eq!((after.sched_nice, after.sched_policy), (ours.sched_nice, ours.sched_policy));
        assert_ne!(after.sched_runtime, LONGEST_SLICE);
    }

    #[test]
    fn nobody_rests_for_nobody_or_for_long() {
        let rest = |millis, were_others| rest(Duration::from_millis(millis), were_others).as_millis();
        assert_eq!((rest(5, false), rest(60_000, false)), (0, 0));
        assert_eq!((rest(5, true), rest(60_000, true)), (15, 250));
    }
}
