//! Listening: the public address, the metrics address, the control socket; and stopping without
//! dropping anybody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use super::App;
use crate::base::{Error, Result};
use crate::config::Server;
use crate::router;
use crate::router::Peer;

/// Serves until SIGTERM or SIGINT, then lets running requests finish within the grace period.
pub(super) async fn until_stopped(app: &App) -> Result<()> {
    let server = &app.config.server;
    // Before anybody can know that we serve: whoever stops us right then must not cut anything off.
    let stopped = signals()?;
    let public = bind(server.listen).await?;
    let bound = public.local_addr().unwrap_or(server.listen);
    let (stop, stopping) = watch::channel(false);
    let mut listening = Vec::new();

    if let Some(address) = server.metrics_listen {
        let handle = recorder()?;
        let tenants = app.state.tenants.clone();
        let router = router::operations(app.front.clone(), move || gauges(&handle, &tenants));
        listening.push(tokio::spawn(tcp(bind(address).await?, router, Knobs::of(server), stopping.clone())));
    }
    let socket = server.data_dir.join("control.sock");
    let _ = std::fs::remove_file(&socket);
    let control = UnixListener::bind(&socket).map_err(|error| failed(&socket.display().to_string(), error))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| failed(&socket.display().to_string(), error))?;
    listening.push(tokio::spawn(unix(control, app.control(), Knobs::of(server), stopping.clone())));
    listening.push(tokio::spawn(tcp(public, app.service(), Knobs::of(server), stopping)));
    tokio::spawn(measure(app.state.tenants.clone(), app.state.backups.clone()));
    tracing::info!(address = %bound, url = %server.origin(), "serving");

    stopped.await;
    tracing::info!("stopping: running requests may finish");
    let _ = stop.send(true);
    for task in listening {
        let _ = task.await;
    }
    let _ = std::fs::remove_file(&socket);
    tracing::info!("stopped");
    Ok(())
}

/// What bounds a connection.
#[derive(Clone)]
struct Knobs {
    header_timeout: Duration,
    header_bytes: usize,
    grace: Duration,
    connections: Arc<Semaphore>,
    peers: Arc<Peers>,
}

/// Connections of each peer: one of them may hold at most half of all, unless it is a proxy of ours.
struct Peers {
    most: usize,
    proxies: Vec<ipnet::IpNet>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A peer's place, given back when its connection ends.
struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer).or_insert(0);
        if *count >= self.most && !self.proxies.iter().any(|net| net.contains(&peer)) {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(self), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.peers.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(self.peer) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Knobs {
    fn of(server: &Server) -> Self {
        Self {
            header_timeout: Duration::from_secs(server.header_timeout_seconds),
            header_bytes: server.max_header_bytes,
            grace: Duration::from_secs(server.shutdown_grace_seconds),
            connections: Arc::new(Semaphore::new(server.max_connections)),
            peers: Arc::new(Peers {
                most: (server.max_connections / 2).max(1),
                proxies: server.trusted_proxies.clone(),
                open: Mutex::default(),
            }),
        }
    }

    /// HTTP/1.1, the language between a proxy and what is behind it; TLS and HTTP/2 are the proxy's. The
    /// timeout runs from the first moment, so that a silent connection is closed as well.
    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(self.header_bytes.max(8192));
        builder
    }
}

async fn tcp(listener: TcpListener, router: Router, knobs: Knobs, mut stopping: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                connection(stream, Some(peer.ip()), &router, &knobs, &graceful);
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    drain(graceful, knobs.grace).await;
}

async fn unix(listener: UnixListener, router: Router, knobs: Knobs, mut stopping: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => connection(stream, None, &router, &knobs, &graceful),
            Err(error) => pause_after(&error).await,
        }
    }
    drain(graceful, knobs.grace).await;
}

fn connection<S>(stream: S, peer: Option<IpAddr>, router: &Router, knobs: &Knobs, graceful: &GracefulShutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Over the bound a connection is closed at once: a client sees it, and we spend nothing on it.
    let permit = Arc::clone(&knobs.connections).try_acquire_owned().ok();
    let place = peer.map(|peer| knobs.peers.enter(peer.to_canonical()));
    let (Some(permit), Some(place)) = (permit, place.map_or(Some(None), |place| place.map(Some))) else {
        metrics::counter!("bulkhead_connections_refused_total").increment(1);
        return;
    };
    let router = router.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        let mut request: Request = request.map(Body::new);
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer));
        }
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let serving = knobs.builder().serve_connection(TokioIo::new(stream), service);
    let watched = graceful.watch(serving);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop((permit, place));
    });
}

async fn drain(graceful: GracefulShutdown, grace: Duration) {
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("the grace period is over; what still runs is cut off");
    }
}

/// Out of descriptors, most likely: trying again at once would only burn a core.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| failed(&address.to_string(), error))
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::internal(format!("cannot listen on {what}"))
        .detail(format!("Cannot listen on {what}: {error}."))
        .source(error)
}

/// The same number on every system that we run on.
const SIGXFSZ: i32 = 25;

/// Catches SIGTERM and SIGINT from now on; the future ends with the first.
fn signals() -> Result<impl Future<Output = ()>> {
    let handler = |kind| signal(kind).map_err(|error| Error::internal("no signal handler").source(error));
    // A file that may grow no further is an error of that write, and not the end of the process.
    let _ = handler(SignalKind::from_raw(SIGXFSZ))?;
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Raises the soft limit of open files to the hard one and says what it is.
pub(super) fn descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    limit.current.unwrap_or(1 << 20)
}

fn recorder() -> Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
        .map(PrometheusBuilder::build_recorder)
        .map_err(|error| Error::internal("metrics").source(error))
        .and_then(|recorder| {
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).map_err(|_| Error::internal("metrics were set up twice"))?;
            Ok(handle)
        })
}

fn gauges(handle: &PrometheusHandle, tenants: &crate::tenants::Tenants) -> String {
    handle.run_upkeep();
    // Its series come and go with the organizations that are limited; the recorder would keep them for ever.
    handle.render() + &tenants.fairness().limited().exposition()
}

/// Gauges that nobody counts up.
async fn measure(tenants: crate::tenants::Tenants, backups: Option<crate::backup::Backups>) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        let (open, capacity) = tenants.usage();
        #[allow(clippy::cast_precision_loss, reason = "a gauge of a few thousand files")]
        {
            metrics::gauge!("bulkhead_organizations_open").set(open as f64);
            metrics::gauge!("bulkhead_organizations_open_max").set(capacity as f64);
            if let Some(backups) = &backups {
                metrics::gauge!("bulkhead_backup_waiting").set(backups.waiting() as f64);
                metrics::gauge!("bulkhead_backup_confirming").set(backups.confirming() as f64);
                metrics::gauge!("bulkhead_backup_superseded").set(f64::from(u8::from(backups.superseded().is_some())));
            }
        }
    }
}
