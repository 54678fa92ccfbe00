//! A store on a bad day: what stands between a server and its bucket, and does what it is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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
}

pub struct Unsteady {
    pub port: u16,
    mood: Arc<AtomicU8>,
}

impl Unsteady {
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = Self { port: listener.local_addr().unwrap().port(), mood: Arc::default() };
        let mood = Arc::clone(&here.mood);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mood = Arc::clone(&mood);
                thread::spawn(move || serve(client, port, &mood));
            }
        });
        here
    }

    pub fn turn(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }
}

fn is(mood: &AtomicU8, wanted: Mood) -> bool {
    mood.load(Ordering::SeqCst) == wanted as u8
}

fn serve(client: TcpStream, port: u16, mood: &Arc<AtomicU8>) {
    if is(mood, Mood::Down) {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
    let (Ok(from), Ok(to)) = up else { return };
    let there = Arc::clone(mood);
    let sending = thread::spawn(move || pass(from, to, &there, true));
    pass(down.0, down.1, mood, false);
    let _ = sending.join();
}

fn pass(mut from: TcpStream, mut to: TcpStream, mood: &AtomicU8, is_request: bool) {
    let mut buffer = vec![0; 16 << 10];
    let close = |from: &TcpStream, to: &TcpStream| {
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    };
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        while is(mood, Mood::Stalled) {
            thread::sleep(Duration::from_millis(10));
        }
        if read == 0 || is(mood, Mood::Down) {
            return close(&from, &to);
        }
        if is_request && is(mood, Mood::Failing) {
            let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = from.write_all(answer.as_bytes());
            return close(&from, &to);
        }
        let whole = is_request || !is(mood, Mood::Partial);
        let bytes = if whole { &buffer[..read] } else { &buffer[..read / 2] };
        if to.write_all(bytes).is_err() || !whole {
            return close(&from, &to);
        }
    }
}
