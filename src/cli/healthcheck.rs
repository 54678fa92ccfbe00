//! `healthcheck`: one request to the server on this machine, for containers and supervisors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use super::client::innermost;
use super::{Context, Failure, Outcome, Verdict, config};

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &Context) -> Outcome {
    let config = config::load(&context.options)?;
    let address = reachable(config.server.listen);
    let failed = |cause: String| {
        Failure::new("unhealthy", format!("The server at {address} is not healthy: {cause}."))
            .advise("`bulkhead doctor` and the server's log say more.")
    };
    let status = ask(address, &config.server.public_url).await.map_err(|error| failed(innermost(&error)))?;
    if !status.is_success() {
        return Err(failed(format!("it answered {status}")));
    }
    context.output.answer(&json!({ "object": "healthcheck", "ok": true }), || "healthy\n".to_owned())?;
    Ok(Verdict::Good)
}

#[allow(clippy::disallowed_methods, reason = "a request to this machine, before there is anything to guard")]
async fn ask(address: SocketAddr, public_url: &url::Url) -> reqwest::Result<reqwest::StatusCode> {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().tls_certs_only([]).build()?;
    let host = match (public_url.host_str(), public_url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or("localhost").to_owned(),
    };
    let response = client.get(format!("http://{address}/healthz")).header(reqwest::header::HOST, host).send().await?;
    Ok(response.status())
}

/// A server that listens everywhere is asked over the loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
