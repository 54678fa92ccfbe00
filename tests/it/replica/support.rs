//! Databases to ship, servers to ship to, and the real litestream to compare with.

use crate::process::patience;
use crate::tools::{litestream, tool};
use crate::wire::PATIENCE;
use bulkhead::ltx::{Encoder, FileName, Header, Txid};
use bulkhead::replica::{Item, Location, Replica, Settings, Store, Target};
use chrono::{DateTime, Utc};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PATH: &str = "orgs/ab/cd/018f2c6e-0000-7000-8000-0123456789ab/db.sqlite";

/// A database, as it was after each transaction.
pub struct Source {
    connection: rusqlite::Connection,
    page_size: u32,
    start: DateTime<Utc>,
    /// By transaction; the first is empty.
    pub images: Vec<Vec<u8>>,
    random: u64,
}

impl Source {
    pub fn new(page_size: u32, start: DateTime<Utc>) -> Self {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "page_size", page_size).unwrap();
        connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX i ON t (v);").unwrap();
        let start = DateTime::from_timestamp_millis(start.timestamp_millis()).unwrap();
        Self { connection, page_size, start, images: vec![Vec::new()], random: 42 }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    pub fn newest(&self) -> u64 {
        self.images.len() as u64 - 1
    }

    pub fn time(&self, txid: u64) -> DateTime<Utc> {
        self.start + chrono::Duration::milliseconds(10_000 * i64::try_from(txid).unwrap() + 123)
    }

    /// One more transaction: growth mostly, now and then a shrink.
    pub fn write(&mut self) {
        let txid = self.newest() + 1;
        let size = 200 + self.random(3000);
        self.connection.execute("INSERT INTO t (v) VALUES (randomblob(?1))", [size.cast_signed()]).unwrap();
        self.connection.execute("UPDATE t SET v = randomblob(100) WHERE id = ?1", [(txid / 2).cast_signed()]).unwrap();
        if txid.is_multiple_of(13) {
            self.connection.execute_batch("DELETE FROM t WHERE id % 3 = 0; VACUUM;").unwrap();
        }
        self.images.push(self.connection.serialize("main").unwrap().to_vec());
    }

    fn header(&self, min: u64, max: u64) -> Header {
        let commit = u32::try_from(self.images[max as usize].len()).unwrap() / self.page_size;
        Header {
            page_size: self.page_size,
            commit,
            min: Txid(min),
            max: Txid(max),
            timestamp_ms: self.time(max).timestamp_millis(),
            wal_offset: 32,
            wal_size: 0,
            wal_salts: [7, 9],
            node_id: 0,
        }
    }

    /// The pages that the transaction changed.
    pub fn increment(&self, txid: u64) -> Vec<u8> {
        let (before, after) = (&self.images[txid as usize - 1], &self.images[txid as usize]);
        let mut encoder = Encoder::new(Vec::new(), self.header(txid, txid)).unwrap();
        let size = self.page_size as usize;
        for (at, page) in after.chunks(size).enumerate() {
            if before.get(at * size..(at + 1) * size) != Some(page) {
                encoder.page(u32::try_from(at).unwrap() + 1, page).unwrap();
            }
        }
        encoder.finish().unwrap().0
    }

    pub fn snapshot(&self, txid: u64) -> Vec<u8> {
        let header = Header { wal_offset: 0, wal_salts: [0, 0], ..self.header(1, txid) };
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (at, page) in self.images[txid as usize].chunks(self.page_size as usize).enumerate() {
            encoder.page(u32::try_from(at).unwrap() + 1, page).unwrap();
        }
        encoder.finish().unwrap().0
    }

    pub async fn ship(&self, replica: &Replica, txid: u64) -> Item {
        replica.put(0, name(txid, txid), self.increment(txid), self.time(txid)).await.unwrap()
    }

    pub async fn ship_snapshot(&self, replica: &Replica, txid: u64) -> Item {
        replica.put(9, name(1, txid), self.snapshot(txid), self.time(txid)).await.unwrap()
    }
}

pub fn name(min: u64, max: u64) -> FileName {
    FileName { min: Txid(min), max: Txid(max) }
}

/// A store of one kind, and how litestream is told of it.
pub struct Site {
    pub store: Store,
    pub location: Location,
    pub settings: Settings,
    pub directory: tempfile::TempDir,
    _server: Option<Server>,
}

pub struct Server {
    child: Child,
    _port: u16,
}

impl Server {
    /// As an operator would.
    pub fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    pub fn folder() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}", directory.path().join("replicas").display());
        Self::new(directory, &url, Settings::default(), None)
    }

    pub fn moto() -> Self {
        Self::moto_with(&[])
    }

    pub fn moto_with(environment: &[(&str, &str)]) -> Self {
        let port = free_port();
        let program = tool("moto_server");
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).envs(environment.iter().copied());
        Self::bucket(command, port)
    }

    /// A distributed store; `None` where it is not installed.
    pub fn seaweed() -> Option<Self> {
        let program = tool("weed");
        Command::new(&program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"]);
        // Nothing is reported to anyone, and no fixed ports for what we do not use.
        command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.args(["-volume.max=20", &format!("-dir={}", directory.path().display())]);
        let mut s3 = 0;
        for part in ["master", "volume", "filer", "s3"] {
            s3 = free_port_with_grpc();
            command.arg(format!("-{part}.port={s3}"));
            command.arg(format!("-{part}.port.grpc={}", s3 + 10_000));
        }
        let mut site = Self::bucket(command, s3);
        site.directory = directory;
        Some(site)
    }

    fn bucket(mut command: Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("an S3 server");
        let server = Server { child, _port: port };
        let deadline = patience();
        while !create_bucket(port) {
            assert!(Instant::now() < deadline, "no S3 server after a minute");
            std::thread::sleep(Duration::from_millis(200));
        }
        let settings = Settings {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: None,
            access_key_id: Some("id".into()),
            secret_access_key: Some("secret".into()),
            force_path_style: true,
            allow_http: true,
            timeout: PATIENCE,
        };
        Self::new(tempfile::tempdir().unwrap(), "s3://backups/some/prefix", settings, Some(server))
    }

    fn new(directory: tempfile::TempDir, url: &str, settings: Settings, server: Option<Server>) -> Self {
        let location: Location = url.parse().unwrap();
        let store = Store::connect(&location, &settings).unwrap();
        Self { store, location, settings, directory, _server: server }
    }

    pub fn replica(&self) -> Replica {
        self.store.replica(PATH).unwrap()
    }

    pub fn out(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    fn litestream_config(&self, database: &Path) -> PathBuf {
        let config = self.directory.path().join("litestream.yml");
        let replica = match &self.location {
            Location::Folder(root) => format!("type: file\n      path: {}/{PATH}", root.display()),
            Location::Bucket { bucket, prefix } => format!(
                "type: s3\n      bucket: {bucket}\n      path: {prefix}/{PATH}\n      endpoint: {}\n      region: us-east-1\n      force-path-style: true\n      access-key-id: id\n      secret-access-key: secret",
                self.settings.endpoint.as_ref().unwrap()
            ),
        };
        let text = format!("dbs:\n  - path: {}\n    replica:\n      {replica}\n", database.display());
        std::fs::write(&config, text).unwrap();
        config
    }

    /// A running `litestream replicate`.
    pub fn litestream_writer(&self, database: &Path) -> Server {
        let config = self.litestream_config(database);
        let mut command = litestream();
        command.arg("replicate").arg("-config").arg(&config);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("litestream");
        Server { child, _port: 0 }
    }

    /// What the stock `litestream restore` makes of the replica.
    pub fn litestream(&self, target: Target) -> Result<Vec<u8>, String> {
        let out = self.out("litestream.db");
        let config = self.litestream_config(Path::new("/nowhere/db.sqlite"));
        let mut command = litestream();
        command.arg("restore").arg("-config").arg(&config).arg("-o").arg(&out);
        match target {
            Target::Latest => {}
            Target::Txid(txid) => drop(command.args(["-txid", &txid.to_string()])),
            Target::Time(time) => drop(command.args(["-timestamp", &time.to_rfc3339()])),
        }
        let output = command.arg("/nowhere/db.sqlite").output().expect("litestream");
        match output.status.success() {
            true => Ok(std::fs::read(&out).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn free_port_with_grpc() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // With its gRPC port 10,000 above, below those that the system hands out.
        let port = 11_000 + (std::process::id() as u16).wrapping_mul(37) % 9_000 + step;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

fn create_bucket(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let request = "PUT /backups HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.lines().next().is_some_and(|line| line.contains(" 200"))
}

pub fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(files_below(&entry.path()));
    }
    found
}
