//! Connections: who is let in, for how long, and with how much.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::patience::Patient;
use super::routes::{self, Peer};
use super::{Commands, Limits};

/// The longest head of a request, and what is buffered of an answer.
const BUFFER: usize = 16 * 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Refusals under way at a time; more are closed without a word.
const REFUSALS: usize = 16;

/// Serves clients until the future is dropped; then open connections are cut.
pub async fn serve(listener: UnixListener, commands: Commands, limits: Limits) {
    let router = routes::router(commands, &limits);
    let refuse = Router::new().fallback(|| async {
        routes::failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "there are too many connections to the control socket",
            "try again when others have ended",
        )
        .into_response()
    });
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::error!("cannot accept a client of the control socket: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (router, permit) = if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            (router.clone(), permit)
        } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
            (refuse.clone(), permit)
        } else {
            continue;
        };
        let limits = limits.clone();
        connections.spawn(async move {
            // A client that breaks off or is cut off is none of our worries.
            if let Err(error) = attend(stream, router, &limits).await {
                log::debug!("a client of the control socket: {error}");
            }
            drop(permit);
        });
    }
}

async fn attend(stream: UnixStream, router: Router, limits: &Limits) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let peer = Peer {
        uid: credentials.uid(),
        pid: credentials.pid(),
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let router = TowerToHyperService::new(router.clone());
        async move { Ok::<_, Infallible>(router.call(request).await.into_response()) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.stall)), service)
        .await
        .map_err(io::Error::other)
}
