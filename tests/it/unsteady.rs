//! A store on a bad day: what stands between a server and its bucket, and does what it is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Everything passes.
    Fine,
    /// Connections are taken and closed.
    Down,
    /// Nothing passes until it is fine again.
    Stalled,
    /// Every request is answered with a 500.
    Failing,
    /// Answers end in the middle.
    Partial,
    /// What is read of a copy waits; all else passes.
    HoldingReads,
    /// New files of level 0 wait, whoever may have given up on them; all else passes.
    HoldingWrites,
}

impl Mood {
    fn holds(self, request: &[u8]) -> bool {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        match self {
            Self::HoldingReads => line.starts_with("GET ") && line.contains(".ltx"),
            Self::HoldingWrites => line.starts_with("PUT ") && line.contains("/0000/"),
            _ => false,
        }
    }
}

pub struct Unsteady {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mood: AtomicU8,
    /// Requests that have been held, and how many of them may go on.
    held: AtomicUsize,
    released: AtomicUsize,
}

impl State {
    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    fn hold(&self, request: &[u8]) {
        let Some(mood) = [Mood::HoldingReads, Mood::HoldingWrites].into_iter().find(|mood| self.is(*mood)) else {
            return;
        };
        if mood.holds(request) {
            let number = self.held.fetch_add(1, Ordering::SeqCst) + 1;
            while self.is(mood) && self.released.load(Ordering::SeqCst) < number {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Unsteady {
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&here.state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || serve(client, port, &state));
            }
        });
        here
    }

    pub fn turn(&self, mood: Mood) {
        self.state.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// How many requests have been held so far.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    /// How many of them may have gone on.
    pub fn released(&self) -> usize {
        self.state.released.load(Ordering::SeqCst)
    }

    /// Lets one more of those that are held go on, in the order in which they came.
    pub fn release_one(&self) {
        self.state.released.fetch_add(1, Ordering::SeqCst);
    }
}

fn serve(client: TcpStream, port: u16, state: &Arc<State>) {
    if state.is(Mood::Down) {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
    let (Ok(from), Ok(to)) = up else { return };
    let there = Arc::clone(state);
    let sending = thread::spawn(move || pass(from, to, &there, true));
    pass(down.0, down.1, state, false);
    let _ = sending.join();
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, is_request: bool) {
    let mut buffer = vec![0; 16 << 10];
    let close = |from: &TcpStream, to: &TcpStream| {
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    };
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        while state.is(Mood::Stalled) {
            thread::sleep(Duration::from_millis(10));
        }
        if is_request {
            state.hold(&buffer[..read]);
        }
        if read == 0 || state.is(Mood::Down) {
            return close(&from, &to);
        }
        if is_request && state.is(Mood::Failing) {
            let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = from.write_all(answer.as_bytes());
            return close(&from, &to);
        }
        let whole = is_request || !state.is(Mood::Partial);
        let bytes = if whole { &buffer[..read] } else { &buffer[..read / 2] };
        if to.write_all(bytes).is_err() || !whole {
            return close(&from, &to);
        }
    }
}
