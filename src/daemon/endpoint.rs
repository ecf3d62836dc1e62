//! The sockets of vhost-user ports: who may connect, and the threads that serve them.
//!
//! A task of the control side accepts or connects; each connection is then served by a thread of its
//! own, so that a slow or hostile front end stalls nobody else. One port has one front end at a time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::event::{Event, SessionId};
use crate::privileged::Privileged;
use crate::sys::socket;
use crate::vhost_user::{Connection, DevicePolicy, PortHost, Update};
use crate::worker::{Barrier, PortId, PortRings};

/// Pauses between attempts to reach a front end that listens.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The stack of a session's thread: its deepest call is a log message.
const STACK: usize = 256 * 1024;

/// Which end of the socket is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The front end connects to us.
    Listen(PathBuf),
    /// We connect to the front end, again and again.
    Connect(PathBuf),
}

/// What the sessions of one port need.
#[derive(Clone)]
pub struct Endpoint {
    pub port: PortId,
    pub name: String,
    pub policy: DevicePolicy,
    pub events: mpsc::UnboundedSender<Event>,
    pub barrier: Barrier,
    pub privileged: Arc<Privileged>,
}

/// Ends the endpoint when dropped: no new connection, and the present one is shut down.
pub struct EndpointHandle {
    _stop: watch::Sender<()>,
}

impl Endpoint {
    /// Starts to listen or to connect.
    ///
    /// # Errors
    ///
    /// What the privileged helper says of the path.
    pub fn start(self, address: &Address) -> Result<EndpointHandle, String> {
        let (stop, stopped) = watch::channel(());
        match address {
            Address::Listen(path) => {
                let listener = self
                    .privileged
                    .bind(path)
                    .map_err(|error| error.to_string())?;
                listener
                    .set_nonblocking(true)
                    .and_then(|()| UnixListener::from_std(listener))
                    .map(|listener| {
                        tokio::spawn(self.listen(listener, path.clone(), stopped));
                    })
                    .map_err(|error| error.to_string())?;
            }
            Address::Connect(path) => {
                tokio::spawn(self.connect(path.clone(), stopped));
            }
        }
        Ok(EndpointHandle { _stop: stop })
    }

    async fn listen(self, listener: UnixListener, path: PathBuf, mut stopped: watch::Receiver<()>) {
        let mut present: Option<Session> = None;
        loop {
            let accepted = tokio::select! {
                // The handle was dropped.
                _ = stopped.changed() => break,
                () = ended(present.as_mut()) => {
                    present = None;
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    log::error!("port {}: cannot accept a front end: {error}", self.name);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if let Some(session) = &mut present {
                if !socket::hung_up(session.stream.as_fd()) {
                    log::warn!(
                        "port {}: a second front end on {} is refused: the port has one, which has \
                         to disconnect first",
                        self.name,
                        path.display()
                    );
                    continue;
                }
                // Its end is on the way: the newcomer waits for it.
                ended(Some(session)).await;
            }
            present = self.serve(stream);
        }
        if let Some(mut session) = present {
            session.end().await;
        }
        self.privileged.unlink(&path).unwrap_or_else(|error| {
            log::warn!(
                "port {}: cannot remove {}: {error}",
                self.name,
                path.display()
            );
        });
        let _ = self.events.send(Event::EndpointGone);
    }

    async fn connect(self, path: PathBuf, mut stopped: watch::Receiver<()>) {
        let mut pause = FIRST_RETRY;
        let mut last_error = String::new();
        loop {
            match self.privileged.connect(&path) {
                Ok(stream) => {
                    last_error.clear();
                    pause = FIRST_RETRY;
                    if let Some(mut session) = self.serve(stream) {
                        tokio::select! {
                            _ = stopped.changed() => {
                                session.end().await;
                                break;
                            }
                            () = ended(Some(&mut session)) => {}
                        }
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != last_error {
                        log::info!(
                            "port {}: no front end yet: {error}; trying again",
                            self.name
                        );
                        last_error = error;
                    }
                }
            }
            tokio::select! {
                _ = stopped.changed() => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            }
        }
        let _ = self.events.send(Event::EndpointGone);
    }

    /// Serves a front end on a new thread.
    fn serve(&self, stream: UnixStream) -> Option<Session> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = SessionId(NEXT.fetch_add(1, Ordering::Relaxed));
        match self.spawn(id, stream) {
            Ok(session) => Some(session),
            Err(error) => {
                log::error!("port {}: cannot serve a front end: {error}", self.name);
                None
            }
        }
    }

    fn spawn(&self, id: SessionId, stream: UnixStream) -> io::Result<Session> {
        let ours = stream.try_clone()?;
        let host = Arc::new(Host {
            port: self.port,
            session: id,
            events: self.events.clone(),
            barrier: self.barrier.clone(),
        });
        let connection = Connection::new(
            stream,
            &self.name,
            self.policy.clone(),
            Arc::clone(&host) as _,
        )?;
        let (done, ended) = oneshot::channel();
        let name = self.name.clone();
        let body = move || {
            host.send(|port, session| Event::Connected { port, session });
            match connection.run() {
                Ok(()) => log::info!("port {name}: the front end disconnected"),
                Err(refusal) => {
                    log::warn!("port {name}: {refusal}; the connection is closed");
                }
            }
            host.send(|port, session| Event::Disconnected { port, session });
            // Nobody waits any more when the daemon is stopping.
            let _ = done.send(());
        };
        let thread = std::thread::Builder::new().name(format!("evb-{}", self.name));
        thread.stack_size(STACK).spawn(body)?;
        log::info!("port {}: a front end connected", self.name);
        Ok(Session {
            stream: ours,
            ended,
        })
    }
}

/// A connection that is being served.
struct Session {
    stream: UnixStream,
    ended: oneshot::Receiver<()>,
}

impl Session {
    async fn end(&mut self) {
        // It may have ended by itself meanwhile.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        ended(Some(self)).await;
    }
}

/// Returns when the session has ended; never, where there is none.
async fn ended(session: Option<&mut Session>) {
    match session {
        Some(session) => {
            let _ = (&mut session.ended).await;
        }
        None => std::future::pending().await,
    }
}

/// The daemon's side of a session.
struct Host {
    port: PortId,
    session: SessionId,
    events: mpsc::UnboundedSender<Event>,
    barrier: Barrier,
}

impl Host {
    fn send(&self, event: impl FnOnce(PortId, SessionId) -> Event) {
        // The daemon outlives its sessions; if it does not, nobody needs the news.
        let _ = self.events.send(event(self.port, self.session));
    }
}

impl PortHost for Host {
    fn set_rings(&self, rings: PortRings) {
        let (reply, published) = oneshot::channel();
        self.send(|port, session| Event::Rings {
            port,
            session,
            rings,
            reply,
        });
        if let Ok(snapshot) = published.blocking_recv() {
            self.barrier.wait(snapshot);
        }
    }

    fn report(&self, update: Update) {
        let (done, dealt_with) = oneshot::channel();
        self.send(|port, session| Event::Update {
            port,
            session,
            update,
            done,
        });
        // Nothing is ever sent.
        let _ = dealt_with.blocking_recv();
    }
}
