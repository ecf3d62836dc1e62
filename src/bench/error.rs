//! Why there is no figure.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::load::StreamError;
use crate::vhost_user::front_end::FrontEndError;
use crate::virtqueue::driver::{DeviceError, MemoryError, QueueError, SendError};

/// Why a benchmark did not come to an end.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The options contradict each other or the machine.
    #[error("{0}")]
    Options(String),
    /// It was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The daemon under test did not start or ended.
    #[error("the daemon under test {what}; it said:\n{said}")]
    Daemon {
        /// What it did.
        what: String,
        /// The end of its log.
        said: String,
    },
    /// Nobody listens.
    #[error("cannot connect to {}: {source}; the back end has to listen there before", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The back end cannot do what is to be measured.
    #[error("the back end at {} does not offer {what}; {remedy}", path.display())]
    NotOffered {
        /// Its socket.
        path: PathBuf,
        /// A feature.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// It cannot be talked to.
    #[error("{}: {source}", path.display())]
    FrontEnd {
        /// Its socket.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: FrontEndError,
    },
    /// It has closed the connection.
    #[error("the back end has closed the connection at {}; look into its log", .0.display())]
    Closed(PathBuf),
    /// Frames do not come through.
    #[error("frames do not get from {from} to {to}: {got} of {sent} came within {seconds} s")]
    Silent {
        /// Name of the sender.
        from: String,
        /// Name of the receiver.
        to: String,
        /// Flows that came.
        got: u64,
        /// Flows that were sent.
        sent: u64,
        /// How long it was waited.
        seconds: u64,
    },
    /// Nothing comes any more.
    #[error("no frame has come for {0} s; look into the log of the back end")]
    Stalled(u64),
    /// A ring was broken by the back end.
    #[error("the back end broke a ring: {0}")]
    Device(#[from] DeviceError),
    /// A frame cannot be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// There is no memory for a queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// There is no guest memory.
    #[error("guest memory: {0}")]
    Memory(#[from] MemoryError),
    /// There are no such frames.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// The error of an operation of the system.
pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let what = what.into();
    move |source| BenchError::System { what, source }
}
