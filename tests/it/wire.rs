//! HTTP as bytes on a connection that stays open: no cookie jar, no redirects, no pool, no retries, so that
//! a test sees exactly what the server did, and a measurement pays for nothing else.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// One request; the same bytes can be sent many times.
#[derive(Clone)]
pub struct Request {
    method: &'static str,
    path: String,
    host: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `host` without the port.
    pub fn new(method: &'static str, host: &str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), host: host.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(host: &str, path: impl Into<String>) -> Self {
        Self::new("GET", host, path)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// `name=value; name=value`
    pub fn cookie(self, cookies: &str) -> Self {
        if cookies.is_empty() { self } else { self.header("cookie", cookies) }
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = serde_json::to_vec(body).unwrap();
        self.header("content-type", "application/json")
    }

    pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        body.clone_into(&mut self.body);
        self.header("content-type", content_type)
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// The request as it goes over the wire.
    pub fn bytes(&self, port: u16) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}:{port}\r\n", self.method, self.path, self.host);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !self.body.is_empty() || self.method != "GET" {
            write!(head, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The cookies that were set, as the browser sends them back: `name=value`.
    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        let set = self.headers.iter().filter(|(name, _)| name == "set-cookie");
        set.map(|(_, value)| value.split(';').next().unwrap_or_default())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The stable code of a problem document.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The token that the forms of this page carry.
    pub fn csrf(&self) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(r#"name="csrf" value=""#)?;
        rest.split('"').next().map(str::to_owned)
    }
}

/// One connection at a time, opened when it is needed.
pub struct Client {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub const fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Sends it once; whatever goes wrong closes the connection and is told.
    pub fn send(&mut self, request: &Request) -> io::Result<Answer> {
        self.send_bytes(&request.bytes(self.port))
    }

    /// The same with bytes that were prepared.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) if is_open(&stream) => stream,
            _ => connect(self.port)?,
        };
        stream.get_mut().write_all(bytes)?;
        let answer = read_answer(&mut stream)?;
        if answer.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

/// How long anything is waited for. It is no measure of speed: only what hangs takes so long, also on a machine that is
/// busy with ten other things.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Whether the server has not hung up meanwhile, as it does with a connection that nobody uses.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let stream = stream.get_ref();
    let asked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = asked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_ok() && waits
}

/// A connection that gives up on a server that hangs.
pub fn connect(port: u16) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

pub fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let torn = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended early");
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(torn)?;
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        if !line.ends_with("\r\n") {
            return Err(torn());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().map_err(|_| torn())?;
        }
        assert_ne!(name, "transfer-encoding", "this client reads whole bodies only");
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, headers, body })
}
