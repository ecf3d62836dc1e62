//! The sockets of vhost-user ports: who may connect, and the threads that serve them.
//!
//! A task of the control side accepts or connects; each connection is then served by a thread of its
//! own, so that a slow or hostile front end stalls nobody else. One port has one front end at a time.
//!
//! Who connects may find another back end at the other end, such as a port of another daemon. Then the thread
//! plays the front end, and what it reaches is a link.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::Level;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::event::{Event, SessionId};
use super::positions::Keeper;
use crate::log_limited;
use crate::privileged::Privileged;
use crate::sys::rate_limit::RateLimit;
use crate::sys::socket;
use crate::uplink::Link;
use crate::vhost_user::{self, Connection, DevicePolicy, Peer, PortHost, Update};
use crate::virtqueue::Positions;
use crate::worker::{Barrier, PortId, PortRings};

/// Pauses between attempts to reach a front end that listens.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How long a port has no front end after one has stopped a worker.
const EXILE: Duration = Duration::from_secs(10);
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
    /// Where packed rings stand.
    pub keeper: Arc<Keeper>,
    /// Keeps those who come and go again and again from filling the log.
    pub news: Arc<RateLimit>,
}

/// Ends the endpoint when dropped: no new connection, and the present one is shut down.
pub struct EndpointHandle {
    orders: watch::Sender<()>,
}

impl EndpointHandle {
    /// Ends the present connection, and takes no other for [`EXILE`].
    pub fn expel(&self) {
        self.orders.send_replace(());
    }
}

impl Endpoint {
    /// Starts to accept front ends on `listener`, or to connect where there is none.
    ///
    /// # Errors
    ///
    /// The system cannot wait for the listener.
    pub fn start(
        self,
        address: &Address,
        listener: Option<std::os::unix::net::UnixListener>,
    ) -> Result<EndpointHandle, String> {
        let (orders, ordered) = watch::channel(());
        let (Address::Listen(path) | Address::Connect(path)) = address;
        match listener {
            Some(listener) => {
                listener
                    .set_nonblocking(true)
                    .and_then(|()| UnixListener::from_std(listener))
                    .map(|listener| {
                        tokio::spawn(self.listen(listener, path.clone(), ordered));
                    })
                    .map_err(|error| error.to_string())?;
            }
            None => {
                tokio::spawn(self.connect(path.clone(), ordered));
            }
        }
        Ok(EndpointHandle { orders })
    }

    async fn listen(self, listener: UnixListener, path: PathBuf, mut orders: watch::Receiver<()>) {
        let mut present: Option<Session> = None;
        loop {
            let accepted = tokio::select! {
                order = orders.changed() => {
                    if let Some(mut session) = present.take() {
                        session.end().await;
                    }
                    if order.is_ok() && self.exile(&mut orders).await {
                        continue;
                    }
                    break;
                }
                () = ended(present.as_mut()) => {
                    present = None;
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    log_limited!(
                        self.news,
                        Level::Error,
                        "port {}: cannot accept a front end: {error}",
                        self.name
                    );
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if let Some(session) = &mut present {
                if !socket::hung_up(session.stream.as_fd()) {
                    log_limited!(
                        self.news,
                        Level::Warn,
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
            present = self.serve(stream, Part::BackEnd);
        }
        self.leave(Some(path)).await;
    }

    async fn connect(self, path: PathBuf, mut orders: watch::Receiver<()>) {
        let mut pause = FIRST_RETRY;
        let mut last_error = String::new();
        loop {
            let (privileged, at) = (Arc::clone(&self.privileged), path.clone());
            // The helper may be opening a device, which can take a second.
            let attempt = tokio::task::spawn_blocking(move || privileged.connect(&at));
            let connected = attempt.await.map_err(|error| error.to_string());
            match connected.and_then(|stream| stream.map_err(|error| error.to_string())) {
                Ok(stream) => {
                    last_error.clear();
                    if let Some(mut session) = self.serve(stream, Part::AsItComes) {
                        tokio::select! {
                            order = orders.changed() => {
                                session.end().await;
                                if order.is_err() || !self.exile(&mut orders).await {
                                    break;
                                }
                            }
                            () = ended(Some(&mut session)) => {}
                        }
                    }
                    pause = FIRST_RETRY;
                }
                Err(error) => {
                    if error != last_error {
                        log_limited!(
                            self.news,
                            Level::Info,
                            "port {}: no front end yet: {error}; trying again",
                            self.name
                        );
                        last_error = error;
                    }
                }
            }
            tokio::select! {
                // It may have left before it was expelled.
                order = orders.changed() => {
                    if order.is_err() || !self.exile(&mut orders).await {
                        break;
                    }
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            }
        }
        self.leave(None).await;
    }

    /// Removes what the port has in the file system, and says that the endpoint is gone.
    async fn leave(self, socket: Option<PathBuf>) {
        let Self {
            name,
            events,
            privileged,
            keeper,
            ..
        } = self;
        // The helper may be opening a device, which can take a second.
        let removed = tokio::task::spawn_blocking(move || {
            if let Some(path) = socket
                && let Err(error) = privileged.unlink(&path)
            {
                log::warn!("port {name}: cannot remove {}: {error}", path.display());
            }
            keeper.close();
        });
        // The task does not panic.
        let _ = removed.await;
        let _ = events.send(Event::EndpointGone);
    }

    /// Lets nobody in for a while; whether the endpoint goes on then.
    async fn exile(&self, orders: &mut watch::Receiver<()>) -> bool {
        log::warn!(
            "port {}: its front end has stopped a worker; it is shut out for {} seconds",
            self.name,
            EXILE.as_secs()
        );
        let end = tokio::time::sleep(EXILE);
        tokio::pin!(end);
        loop {
            tokio::select! {
                order = orders.changed() => {
                    if order.is_err() {
                        return false;
                    }
                }
                () = &mut end => return true,
            }
        }
    }

    /// Serves a connection on a new thread.
    fn serve(&self, stream: UnixStream, part: Part) -> Option<Session> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = SessionId(NEXT.fetch_add(1, Ordering::Relaxed));
        match self.spawn(id, stream, part) {
            Ok(session) => Some(session),
            Err(error) => {
                log_limited!(
                    self.news,
                    Level::Error,
                    "port {}: cannot serve a front end: {error}",
                    self.name
                );
                None
            }
        }
    }

    fn spawn(&self, id: SessionId, stream: UnixStream, part: Part) -> io::Result<Session> {
        let ours = stream.try_clone()?;
        // Both parts wait in system calls.
        stream.set_nonblocking(false)?;
        let host = Arc::new(Host {
            port: self.port,
            session: id,
            events: self.events.clone(),
            barrier: self.barrier.clone(),
            keeper: Arc::clone(&self.keeper),
            news: Arc::clone(&self.news),
        });
        let (done, ended) = oneshot::channel();
        let (name, policy) = (self.name.clone(), self.policy.clone());
        let body = move || {
            host.send(|port, session| Event::Connected { port, session });
            if part == Part::BackEnd || vhost_user::speaks_first(&stream) {
                host.follow(stream, &name, policy);
            } else {
                host.lead(stream, &name, policy.mtu);
            }
            host.send(|port, session| Event::Disconnected { port, session });
            // Nobody waits any more when the daemon is stopping.
            let _ = done.send(());
        };
        let thread = std::thread::Builder::new().name(format!("evb-{}", self.name));
        thread.stack_size(STACK).spawn(body)?;
        Ok(Session {
            stream: ours,
            ended,
        })
    }
}

/// The part that is ours in a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The device's.
    BackEnd,
    /// The one that the other end leaves to us.
    AsItComes,
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
    keeper: Arc<Keeper>,
    news: Arc<RateLimit>,
}

impl Host {
    fn send(&self, event: impl FnOnce(PortId, SessionId) -> Event) {
        // The daemon outlives its sessions; if it does not, nobody needs the news.
        let _ = self.events.send(event(self.port, self.session));
    }

    /// Logs what happened, unless that happens all the time.
    fn note(&self, level: Level, name: &str, what: &dyn fmt::Display) {
        log_limited!(self.news, level, "port {name}: {what}");
    }

    /// Serves a front end until it leaves.
    fn follow(self: &Arc<Self>, stream: UnixStream, name: &str, policy: DevicePolicy) {
        self.note(Level::Info, name, &"a front end connected");
        let connection = Connection::new(stream, name, policy, Arc::clone(self) as _);
        match connection.map(Connection::run) {
            Ok(Ok(())) => self.note(Level::Info, name, &"the front end disconnected"),
            Ok(Err(refusal)) => self.note(
                Level::Warn,
                name,
                &format_args!("{refusal}; the connection is closed"),
            ),
            Err(error) => self.note(
                Level::Error,
                name,
                &format_args!("cannot serve a front end: {error}"),
            ),
        }
    }

    /// Is the front end of a back end until that leaves.
    fn lead(&self, stream: UnixStream, name: &str, mtu: Option<u16>) {
        let part = "the other end waits for a front end, so this is one";
        self.note(Level::Info, name, &part);
        let end = Peer::join(stream, name, mtu).and_then(|peer| {
            self.report(Update::Negotiated(peer.features()));
            self.set_link(Some(Arc::clone(peer.link())));
            let end = peer.wait();
            self.set_link(None);
            end
        });
        match end {
            Ok(()) => self.note(Level::Info, name, &"the back end disconnected"),
            Err(error) => self.note(
                Level::Warn,
                name,
                &format_args!("{error}; the connection is closed"),
            ),
        }
    }

    /// Makes `link` what workers use for the port, and returns once none uses what was before.
    fn set_link(&self, link: Option<Arc<Link>>) {
        self.change(|port, session, reply| Event::Link {
            port,
            session,
            link,
            reply,
        });
    }

    /// Has the daemon change what workers use, and returns once none uses what was before.
    fn change(&self, event: impl FnOnce(PortId, SessionId, oneshot::Sender<u64>) -> Event) {
        let (reply, published) = oneshot::channel();
        self.send(|port, session| event(port, session, reply));
        if let Ok(snapshot) = published.blocking_recv() {
            self.barrier.wait(snapshot);
        }
    }
}

impl PortHost for Host {
    fn set_rings(&self, rings: PortRings) {
        self.change(|port, session, reply| Event::Rings {
            port,
            session,
            rings,
            reply,
        });
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

    fn positions(&self) -> Arc<Positions> {
        self.keeper.positions()
    }
}
