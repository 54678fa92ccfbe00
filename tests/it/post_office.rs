//! A mail server on loopback that behaves as badly as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does with whoever connects.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Takes every message, after a while.
    Takes(Duration),
    /// Refuses every recipient, with this answer.
    Refuses(&'static str),
    /// Accepts connections and says nothing, ever.
    Silent,
}

/// It runs until the test's process ends.
pub struct PostOffice {
    pub port: u16,
    manner: Arc<Mutex<Manner>>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl PostOffice {
    pub fn open(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let office = Self { port, manner: Arc::new(Mutex::new(manner)), taken: Arc::default() };
        let (manner, taken) = (Arc::clone(&office.manner), Arc::clone(&office.taken));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, taken) = (Arc::clone(&manner), Arc::clone(&taken));
                thread::spawn(move || serve(&stream, &manner, &taken));
            }
        });
        office
    }

    /// The settings that make a server send its mail here, by the names of their variables.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("BULKHEAD_MAIL_TRANSPORT", "smtp".to_owned()),
            ("BULKHEAD_MAIL_SMTP_HOST", Ipv4Addr::LOCALHOST.to_string()),
            ("BULKHEAD_MAIL_SMTP_PORT", self.port.to_string()),
            ("BULKHEAD_MAIL_SMTP_TLS", "none".to_owned()),
            ("BULKHEAD_MAIL_FROM", "Bulkhead <no-reply@mail.test>".to_owned()),
        ]
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// What was taken: each message with its head, in the order of arrival.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }

    /// The six digits in the newest message for an address.
    pub fn code_for(&self, email: &str) -> Option<String> {
        let to = format!("To: {email}\n");
        let message = self.taken().into_iter().rev().find(|message| message.contains(&to))?;
        let (_, text) = message.split_once("\n\n")?;
        text.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 6).map(str::to_owned)
    }
}

/// One conversation (RFC 5321), as far as our side of it goes.
fn serve(stream: &TcpStream, manner: &Mutex<Manner>, taken: &Mutex<Vec<String>>) -> Option<()> {
    let say = |line: &str| (&*stream).write_all(format!("{line}\r\n").as_bytes()).ok();
    let mut lines = BufReader::new(stream).lines();
    if matches!(*manner.lock().unwrap(), Manner::Silent) {
        // Until the other side gives up.
        while lines.next()?.is_ok() {}
        return None;
    }
    say("220 post office")?;
    loop {
        let line = lines.next()?.ok()?;
        let behaviour = *manner.lock().unwrap();
        match line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" => say("250-post office\r\n250 8BITMIME")?,
            "RCPT" => match behaviour {
                Manner::Refuses(answer) => say(answer)?,
                _ => say("250 fine")?,
            },
            "DATA" => {
                say("354 go on")?;
                let mut message = String::new();
                loop {
                    let line = lines.next()?.ok()?;
                    if line == "." {
                        break;
                    }
                    message.push_str(&line);
                    message.push('\n');
                }
                if let Manner::Takes(after) = behaviour {
                    thread::sleep(after);
                }
                taken.lock().unwrap().push(message);
                say("250 taken")?;
            }
            "QUIT" => return say("221 bye"),
            _ => say("250 fine")?,
        }
    }
}
