//! Threads that wait for a folder, so that nobody else has to. On a mount of which the server is gone a call does not
//! come back, and no runtime can end it: whoever asked stops waiting, and the thread is left behind until the mount
//! answers or the process ends.
//!
//! What was left behind may still be carried out, as with a bucket whose answer was lost. So what changes something is
//! not begun while a thread that was to change the same is still out. And while it is not known whether threads come
//! back, one goes at a time: a mount that is dead for days does not keep a thread of each try.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Errands at the same moment that somebody waits for.
const AT_ONCE: usize = 64;
/// Threads that have not come back. With so many, nothing is begun before one of them has.
const MOST_LOST: usize = 256;
/// How long it is waited for one that was given up and is to change the same: whoever asks will ask again.
const SETTLES: Duration = Duration::from_secs(1);
/// How long a thread without an errand stays for the next.
const IDLE: Duration = Duration::from_secs(10);

/// Runs errands; cheap to clone.
#[derive(Clone)]
pub(super) struct Errands(Arc<Inner>);

struct Inner {
    patience: Duration,
    places: Semaphore,
    /// Held by the one that goes while it is not known whether anybody comes back.
    scout: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    work: Condvar,
    /// Told when one that was lost has come back.
    returned: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    /// Threads that nobody waits for any more.
    lost: usize,
    /// Those of them that were to change something, by what that is.
    changing: HashMap<String, usize>,
    /// Whether the last that was heard of one is that it did not come back.
    is_doubtful: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// Beats whenever an errand has come further: one that is long is not one that hangs.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Out,
    /// Nobody waits for it: it is not begun, or lost.
    GivenUp,
    Back,
}

/// One errand, as the thread and whoever waits for it both see it.
#[derive(Clone)]
struct Errand {
    inner: Arc<Inner>,
    stage: Arc<Mutex<Stage>>,
    changes: Option<String>,
}

/// Whoever waits; gives up when dropped.
struct Waiting(Errand);

impl Errands {
    /// `patience`: how long one may be out without coming any further.
    pub fn new(patience: Duration) -> Self {
        Self(Arc::new(Inner {
            patience,
            places: Semaphore::new(AT_ONCE),
            scout: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            work: Condvar::new(),
            returned: watch::Sender::default(),
        }))
    }

    /// Runs what may not come back. `changes` is what it changes, if it changes something.
    pub async fn run<T: Send + 'static>(
        &self,
        changes: Option<&str>,
        work: impl FnOnce(&Pulse) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = &self.0;
        let deadline = Instant::now() + inner.patience;
        inner.settled(changes, deadline.min(Instant::now() + SETTLES)).await?;
        let mut scout = None;
        if inner.state().is_doubtful {
            let held = timeout_at(deadline, inner.scout.lock()).await.map_err(|_| not_begun())?;
            scout = inner.state().is_doubtful.then_some(held);
        }
        let place = timeout_at(deadline, inner.places.acquire()).await.map_err(|_| not_begun())?;
        // Given up while this one waited for its place.
        if inner.is_changing(changes) || inner.state().lost >= MOST_LOST {
            return Err(not_begun());
        }
        let (tell, mut told) = oneshot::channel();
        let pulse = Pulse::default();
        let stage = Arc::new(Mutex::new(Stage::Waiting));
        let errand = Errand { inner: Arc::clone(inner), stage, changes: changes.map(str::to_owned) };
        let (sent, own) = (errand.clone(), pulse.clone());
        inner.send(Box::new(move || {
            if !sent.goes() {
                return;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&own)));
            sent.is_back();
            let _ = tell.send(outcome.unwrap_or_else(|_| Err(io::Error::other("it ended with a panic"))));
        }))?;
        let waiting = Waiting(errand);
        let mut seen = pulse.count();
        let outcome = loop {
            match timeout(inner.patience, &mut told).await {
                Ok(outcome) => break outcome.unwrap_or_else(|_| Err(io::Error::other("it ended early"))),
                Err(_) if pulse.count() == seen => break Err(no_answer()),
                Err(_) => {
                    seen = pulse.count();
                    inner.state().is_doubtful = false;
                    scout = None;
                }
            }
        };
        drop((waiting, scout, place));
        outcome
    }
}

impl fmt::Debug for Errands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").field("patience", &self.0.patience).finish_non_exhaustive()
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

fn not_begun() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, NotBegun)
}

/// Why an errand was refused that nobody went on: nothing of it can be carried out later.
#[derive(Debug, thiserror::Error)]
#[error("it does not answer, and nothing more is asked of it")]
pub(super) struct NotBegun;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn is_changing(&self, changes: Option<&str>) -> bool {
        changes.is_some_and(|changes| self.state().changing.contains_key(changes))
    }

    /// Waits until nobody is out any more who was to change the same and was given up.
    async fn settled(&self, changes: Option<&str>, deadline: Instant) -> io::Result<()> {
        let mut returned = self.returned.subscribe();
        while self.is_changing(changes) {
            timeout_at(deadline, returned.changed()).await.map_err(|_| not_begun())?.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// To the next thread that is free, or a new one.
    fn send(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let mut state = self.state();
        state.queue.push_back(job);
        if state.idle < state.queue.len() {
            let inner = Arc::clone(self);
            let started = thread::Builder::new().name("backup-folder".to_owned()).spawn(move || inner.serve());
            if let Err(error) = started {
                state.queue.pop_back();
                return Err(error);
            }
        }
        self.work.notify_one();
        Ok(())
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.state();
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.idle -= 1;
            if waited.1.timed_out() && state.queue.is_empty() {
                return;
            }
        }
    }
}

impl Errand {
    /// Whether somebody still wants it when its turn has come.
    fn goes(&self) -> bool {
        let mut stage = locked(&self.stage);
        let is_wanted = *stage == Stage::Waiting;
        if is_wanted {
            *stage = Stage::Out;
        }
        is_wanted
    }

    fn is_back(&self) {
        let mut stage = locked(&self.stage);
        let mut state = self.inner.state();
        state.is_doubtful = false;
        if *stage == Stage::GivenUp {
            state.lost -= 1;
            if let Some(changes) = &self.changes
                && let Some(count) = state.changing.get_mut(changes)
            {
                *count -= 1;
                if *count == 0 {
                    state.changing.remove(changes);
                }
            }
            drop(state);
            self.inner.returned.send_replace(());
        }
        *stage = Stage::Back;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Errand { inner, stage, changes } = &self.0;
        let mut stage = locked(stage);
        if *stage == Stage::Out {
            let mut state = inner.state();
            state.lost += 1;
            state.is_doubtful = true;
            if let Some(changes) = changes {
                *state.changing.entry(changes.clone()).or_default() += 1;
            }
        }
        if *stage != Stage::Back {
            *stage = Stage::GivenUp;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::resume_unwind;
    use std::sync::mpsc;

    /// An errand that is out until it is called back.
    fn stuck() -> (mpsc::Sender<()>, impl FnOnce(&Pulse) -> io::Result<()> + Send + 'static) {
        let (call, back) = mpsc::channel::<()>();
        (call, move |_: &Pulse| {
            let _ = back.recv();
            Ok(())
        })
    }

    fn times_out<T>(outcome: io::Result<T>) {
        assert_eq!(outcome.err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn nobody_waits_for_one_that_does_not_come_back() {
        let errands = Errands::new(Duration::from_secs(2));
        let (call, hangs) = stuck();
        times_out(errands.run(None, hangs).await);
        // Others go on meanwhile, also to change something.
        for n in 0..20 {
            assert_eq!(errands.run(Some("a"), move |_| Ok(n)).await.unwrap(), n);
        }
        assert_eq!(errands.0.state().lost, 1);
        drop(call);
        let mut returned = errands.0.returned.subscribe();
        while errands.0.state().lost > 0 {
            let _ = timeout(Duration::from_secs(60), returned.changed()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_given_up_is_changed_by_nobody_else_before_it_is_back() {
        let errands = Errands::new(Duration::from_secs(2));
        let (call, hangs) = stuck();
        times_out(errands.run(Some("a"), hangs).await);
        times_out(errands.run(Some("a"), |_| Ok(())).await);
        assert_eq!(errands.run(Some("b"), |_| Ok(1)).await.unwrap(), 1);
        assert_eq!(errands.run(None, |_| Ok(2)).await.unwrap(), 2);
        drop(call);
        let mut returned = errands.0.returned.subscribe();
        while errands.0.is_changing(Some("a")) {
            let _ = timeout(Duration::from_secs(60), returned.changed()).await.unwrap();
        }
        errands.run(Some("a"), |_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn one_goes_at_a_time_while_it_is_not_known_whether_anybody_comes_back() {
        let errands = Errands::new(Duration::from_secs(2));
        let (first, hangs) = stuck();
        times_out(errands.run(None, hangs).await);
        let (calls, many): (Vec<_>, Vec<_>) = (0..8).map(|_| stuck()).unzip();
        let outcomes = futures::future::join_all(many.into_iter().map(|hangs| errands.run(None, hangs))).await;
        outcomes.into_iter().for_each(times_out);
        // The second was sent to see, and perhaps a third when that was given up.
        assert!(errands.0.state().lost <= 3, "{}", errands.0.state().lost);
        drop((first, calls));
        assert_eq!(errands.run(None, |_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn one_that_takes_long_and_comes_further_is_waited_for() {
        let errands = Errands::new(Duration::from_secs(2));
        let slow = |pulse: &Pulse| {
            for _ in 0..30 {
                thread::sleep(Duration::from_millis(100));
                pulse.beat();
            }
            Ok(5)
        };
        assert_eq!(errands.run(Some("a"), slow).await.unwrap(), 5);
        // Without the report, which takes longer than anybody waits here where it finds its names first.
        let panics = |_: &Pulse| -> io::Result<()> { resume_unwind(Box::new("on purpose")) };
        assert_eq!(errands.run(Some("a"), panics).await.unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(errands.run(Some("a"), |_| Ok(6)).await.unwrap(), 6);
    }
}
