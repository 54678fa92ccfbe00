//! Who waits for a hashing thread: one queue an organization, served in turn, so that whoever asks for thousands
//! keeps nobody else waiting for more than the one that is being computed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::OrganizationId;

/// In whose name something is hashed, and how much of the pool that one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub organization: OrganizationId,
    /// Hashes at the same moment; 0 for as many as there are threads.
    pub at_once: u32,
    /// Hashes that wait; 0 for as many as the pool lets wait.
    pub waiting: u32,
}

impl Share {
    /// For hashes of no organization, such as the first password of one that is being made: together they wait in a
    /// queue like that of one organization.
    #[must_use]
    pub const fn of_nobody() -> Self {
        Self { organization: OrganizationId::from_bits(0), at_once: 0, waiting: 0 }
    }
}

/// Why somebody may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// As many of this organization wait as may.
    Own,
    /// As many wait as may at all, and this organization is none of those who have too many of them.
    All,
}

/// All queues, with a bound on what waits in them together.
pub(super) struct Line<J> {
    inside: Mutex<Inside<J>>,
    more: Condvar,
}

struct Inside<J> {
    queues: HashMap<OrganizationId, Queue<J>>,
    /// Those with somebody waiting, in the order in which they are served.
    turns: VecDeque<OrganizationId>,
    waiting: usize,
    most: usize,
    closed: bool,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    running: u32,
    at_once: u32,
}

impl<J> Queue<J> {
    fn may_run(&self) -> bool {
        self.at_once == 0 || self.running < self.at_once
    }
}

impl<J> Line<J> {
    /// At most `most` wait at the same time.
    pub fn new(most: usize) -> Self {
        let inside =
            Inside { queues: HashMap::new(), turns: VecDeque::new(), waiting: 0, most: most.max(1), closed: false };
        Self { inside: Mutex::new(inside), more: Condvar::new() }
    }

    /// Lets a job wait for its turn. Where no more can wait at all, the newest job of whoever has the most of them
    /// makes room, and is returned.
    pub fn join(&self, share: Share, job: J) -> Result<Option<J>, Full> {
        let mut inside = self.inside();
        let own = inside.queues.get(&share.organization).map_or(0, |queue| queue.jobs.len());
        if share.waiting > 0 && own >= share.waiting as usize {
            return Err(Full::Own);
        }
        let mut out = None;
        if inside.waiting >= inside.most {
            out = Some(inside.take_newest_of_longest(own + 1).ok_or(Full::All)?);
        }
        let queue = inside.queues.entry(share.organization).or_insert_with(|| Queue {
            jobs: VecDeque::new(),
            running: 0,
            at_once: 0,
        });
        queue.at_once = share.at_once;
        queue.jobs.push_back(job);
        if queue.jobs.len() == 1 {
            inside.turns.push_back(share.organization);
        }
        inside.waiting += 1;
        drop(inside);
        self.more.notify_one();
        Ok(out)
    }

    /// Waits for the next job; nothing once the line is closed and empty. Whoever takes one says when it is done
    /// with [`Line::done`].
    pub fn next(&self) -> Option<(OrganizationId, J)> {
        let mut inside = self.inside();
        loop {
            if let Some(next) = inside.take_next() {
                return Some(next);
            }
            if inside.closed && inside.waiting == 0 {
                return None;
            }
            inside = self.more.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A job of this organization has ended.
    pub fn done(&self, organization: OrganizationId) {
        let mut inside = self.inside();
        if let Some(queue) = inside.queues.get_mut(&organization) {
            queue.running = queue.running.saturating_sub(1);
            if queue.running == 0 && queue.jobs.is_empty() {
                inside.queues.remove(&organization);
            }
        }
        drop(inside);
        // One that was held back may run now.
        self.more.notify_one();
    }

    /// Nobody joins any more: whoever waits for a job goes home once there is none.
    pub fn close(&self) {
        self.inside().closed = true;
        self.more.notify_all();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.inside().waiting
    }

    fn inside(&self) -> MutexGuard<'_, Inside<J>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Inside<J> {
    fn take_next(&mut self) -> Option<(OrganizationId, J)> {
        let may_run = |id: &OrganizationId| self.queues.get(id).is_some_and(Queue::may_run);
        let at = self.turns.iter().position(may_run)?;
        let id = self.turns.remove(at)?;
        let queue = self.queues.get_mut(&id)?;
        let job = queue.jobs.pop_front()?;
        queue.running += 1;
        self.waiting -= 1;
        if !queue.jobs.is_empty() {
            self.turns.push_back(id);
        }
        Some((id, job))
    }

    /// The newest job of the longest queue, if that is longer than `than`.
    fn take_newest_of_longest(&mut self, than: usize) -> Option<J> {
        let (_, id) = self.queues.iter().map(|(id, queue)| (queue.jobs.len(), *id)).max()?;
        let queue = self.queues.get_mut(&id).filter(|queue| queue.jobs.len() > than)?;
        let job = queue.jobs.pop_back()?;
        self.waiting -= 1;
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(organization: u128, at_once: u32, waiting: u32) -> Share {
        Share { organization: OrganizationId::from_bits(organization), at_once, waiting }
    }

    /// Takes everything, one at a time, as one thread would.
    fn order(line: &Line<&'static str>) -> Vec<&'static str> {
        line.close();
        std::iter::from_fn(|| line.next().inspect(|(id, _)| line.done(*id)).map(|(_, job)| job)).collect()
    }

    #[test]
    fn a_long_queue_keeps_nobody_waiting_for_more_than_its_turn() {
        let line = Line::new(100);
        for job in ["a1", "a2", "a3", "a4"] {
            line.join(share(1, 0, 0), job).unwrap();
        }
        line.join(share(2, 0, 0), "b1").unwrap();
        line.join(share(3, 0, 0), "c1").unwrap();
        line.join(share(3, 0, 0), "c2").unwrap();
        assert_eq!(order(&line), ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]);
        assert!(line.inside().queues.is_empty(), "something of those who are gone is kept");
    }

    #[test]
    fn of_one_organization_only_so_many_run_and_wait() {
        let line = Line::new(100);
        for job in ["a1", "a2"] {
            line.join(share(1, 1, 2), job).unwrap();
        }
        assert_eq!(line.join(share(1, 1, 2), "a3"), Err(Full::Own));
        line.join(share(2, 1, 2), "b1").unwrap();
        assert_eq!(line.next(), Some((OrganizationId::from_bits(1), "a1")));
        assert_eq!(line.next(), Some((OrganizationId::from_bits(2), "b1")));
        // The second of the first one has to wait although a thread is free.
        assert_eq!(line.inside().take_next(), None);
        line.done(OrganizationId::from_bits(1));
        assert_eq!(line.next(), Some((OrganizationId::from_bits(1), "a2")));
        // A plan that was raised holds from the next one on.
        line.join(share(1, 2, 9), "a3").unwrap();
        assert_eq!(line.next(), Some((OrganizationId::from_bits(1), "a3")));
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn whoever_has_most_makes_room_for_others_and_not_for_itself() {
        let line = Line::new(4);
        for job in ["a1", "a2", "a3"] {
            line.join(share(1, 0, 0), job).unwrap();
        }
        line.join(share(2, 0, 0), "b1").unwrap();
        assert_eq!(line.join(share(1, 0, 0), "a4"), Err(Full::All));
        assert_eq!(line.join(share(3, 0, 0), "c1"), Ok(Some("a3")));
        // Two against one is no excess: the second of another would only be the next to go.
        assert_eq!(line.join(share(2, 0, 0), "b2"), Err(Full::All));
        assert_eq!(line.waiting(), 4);
        assert_eq!(order(&line), ["a1", "b1", "c1", "a2"]);
    }
}
