//! The control API: HTTP/1.1 and JSON on a unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/version` | [`Version`](crate::api_types::Version) |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/fdb` | an array of [`FdbEntry`], one on a line; the query is an [`FdbFilter`] |
//! | `DELETE /v1/fdb` | [`Flushed`]; the query as above |
//! | `POST /v1/reload` | [`Reloaded`] |
//! | `GET /metrics` | Prometheus' text format |
//!
//! Everything else is an [`ApiError`].
//!
//! The server runs on the control side's runtime and owns no state: each request becomes a [`Command`]
//! for the daemon, which alone changes the world, and waits a bounded time for the reply. Clients are
//! not trusted to be quick or correct. Connections are counted, headers are limited in size and time,
//! requests have no bodies, and a client that does not read its answer is cut off. An FDB is walked and
//! written by a thread of the blocking pool, a piece ahead of the client, so that neither its size nor
//! a slow reader is felt by the daemon. Access is decided by the permissions of the socket.

mod connection;
mod fdb;
mod metrics;
mod patience;
mod routes;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use connection::serve;

use crate::api_types::{ApiError, FdbEntry, FdbFilter, Flushed, LoadStatus, Reloaded, Status};
use crate::load::Rate;

/// What the daemon is asked to do. A reply that is dropped unsent tells the client that the daemon
/// is stopping; sending to a client that has gone is no error worth a word.
pub enum Command {
    /// Say how things are.
    Status {
        /// To whom.
        reply: oneshot::Sender<Status>,
    },
    /// Show entries of the FDB. The daemon checks the names in the filter and answers with the walk,
    /// which then runs in another thread.
    Fdb {
        /// Which.
        filter: FdbFilter,
        /// To whom.
        reply: oneshot::Sender<Result<FdbWalk, Refusal>>,
    },
    /// Forget learned entries.
    Flush {
        /// Which.
        filter: FdbFilter,
        /// To whom.
        reply: oneshot::Sender<Result<Flushed, Refusal>>,
    },
    /// Start or stop a generator.
    Load {
        /// Name of its port.
        port: String,
        /// What it is to do; none to stop.
        start: Option<Start>,
        /// To whom.
        reply: oneshot::Sender<Result<LoadStatus, Refusal>>,
    },
    /// Read the configuration again and apply the difference.
    Reload {
        /// To whom.
        reply: oneshot::Sender<Result<Reloaded, Refusal>>,
    },
}

/// How a generator is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// How fast; as configured where it is missing.
    pub rate: Option<Rate>,
    /// For how long; until it is stopped where it is missing.
    pub time: Option<Duration>,
}

/// Calls its argument with each entry, in any order, until that says to break. It owns what it walks.
pub type FdbWalk = Box<dyn FnOnce(&mut dyn FnMut(FdbEntry) -> ControlFlow<()>) + Send>;

/// Why the daemon did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of a reason it is.
    pub kind: RefusalKind,
    /// What the client is told.
    pub error: ApiError,
}

/// Kinds of reasons, as HTTP knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A name in the request is nobody's: 404.
    NotFound,
    /// The request makes sense, but not for what is there, such as a wrong configuration file: 409.
    Conflict,
    /// It did not work, for reasons that the client cannot know: 500.
    Failed,
}

impl Refusal {
    /// A refusal with the remedy.
    pub fn new(kind: RefusalKind, error: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        let error = ApiError {
            error: error.into(),
            remedy: Some(remedy.into()),
        };
        Refusal { kind, error }
    }
}

/// What clients may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; one more is told so and closed.
    pub connections: usize,
    /// FDBs shown at a time.
    pub walks: usize,
    /// Time for a client to send the head of a request, from the connection or the last answer on.
    pub head: Duration,
    /// Time for a client to take some of its answer.
    pub stall: Duration,
    /// Time for the daemon to reply.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 64,
            walks: 4,
            head: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            reply: Duration::from_secs(30),
        }
    }
}

/// Where the server sends its commands; the daemon holds the other end.
pub type Commands = mpsc::Sender<Command>;

/// A way for commands to the daemon. It is short: clients wait, commands do not pile up.
pub fn channel() -> (Commands, mpsc::Receiver<Command>) {
    mpsc::channel(16)
}
